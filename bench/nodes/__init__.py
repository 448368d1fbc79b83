"""The node agent beside the stock kubelet, on the same machine, one after the other."""
