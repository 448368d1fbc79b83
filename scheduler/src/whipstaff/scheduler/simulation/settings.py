"""Which profile decides about which pod, out of a scheduler's configuration.

No loop runs here. A configuration with one profile decides about every pod, whatever scheduler the
pod asks for: the question is what would be if that scheduler had it. One with several profiles
decides about the pods that ask for one of them.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

from whipstaff.scheduler import app, configuration, pods, profile

Config = configuration.Configuration | str | pathlib.Path | None
"""A configuration, the file of one, or None for the defaults."""


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Profiles that were built for one simulation."""

    profiles: Mapping[str, profile.Profile]
    notes: tuple[str, ...]

    def choose(self, pod: pods.PodInfo) -> profile.Profile | None:
        """The profile for a pod; None if none is meant for it."""
        if len(self.profiles) == 1:
            return next(iter(self.profiles.values()))
        return self.profiles.get(pod.scheduler_name)


def load(config: Config) -> Settings:
    """Builds the profiles anew: they belong to one simulated cluster at a time.

    Raises:
        errors.ConfigurationError: the file, or a plugin in it, can't be used.
    """
    if config is None:
        read = configuration.Configuration()
    elif isinstance(config, configuration.Configuration):
        read = config
    else:
        read = configuration.load(str(config), external=profile.installed())
    notes = []
    if read.extenders:
        urls = ", ".join(each.url_prefix for each in read.extenders)
        notes.append(f"extenders have a say in a cluster and weren't asked: {urls}")
    # Pods with resource claims stay pending and say why, so that one needs no word.
    if missing := [name for name in app.missing_plugins(read) if name != "DynamicResources"]:
        notes.append(f"plugins that aren't built and have no say: {', '.join(missing)}")
    return Settings(app.build_profiles(read), tuple(notes))


def name_of(config: Config) -> str:
    """What a configuration is called."""
    if isinstance(config, configuration.Configuration):
        return config.source or "defaults"
    return "defaults" if config is None else str(config)
