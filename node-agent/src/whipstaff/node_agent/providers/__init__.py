"""The providers that come with the node agent; a user's own is named by module and attribute."""
