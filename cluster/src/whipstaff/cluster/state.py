"""What runs now: kept in ``state.json``, written by the supervisor at every change, read by anyone.

Owns the file, which is there from the supervisor's start to its orderly end. One that is there
without its supervisor tells of a supervisor that was killed, and which processes it left behind.
"""

import dataclasses
from dataclasses import dataclass, field

import orjson

from whipstaff.cluster import files, layout, processes
from whipstaff.runtime import errors

WAITING, STARTING, RUNNING, RESTARTING, FAILED = (
    "Waiting",
    "Starting",
    "Running",
    "Restarting",
    "Failed",
)


@dataclass(slots=True)
class Component:
    """One component's record.

    Attributes:
        phase: Waiting (for another one), Starting, Running, Restarting (it died), or Failed (it
            died before it ever served).
        since: when the process was started, in seconds since the epoch.
        message: the last thing that went wrong.
        address: where it listens, for people.
        node: the node that it runs on; empty for the control plane.
    """

    name: str
    port: int
    log: str
    phase: str = WAITING
    process: processes.Identity | None = None
    since: float | None = None
    restarts: int = 0
    message: str = ""
    address: str = ""
    node: str = ""


@dataclass(slots=True)
class State:
    """The supervisor and what it runs, in starting order."""

    supervisor: processes.Identity
    components: list[Component] = field(default_factory=list)

    @classmethod
    def load(cls, place: layout.Layout) -> "State | None":
        """The state of a cluster, None where nothing was started (or all was ended).

        Raises:
            ConfigurationError: the file can't be understood.
        """
        try:
            raw = orjson.loads(place.state.read_bytes())
            return cls(
                supervisor=processes.Identity(**raw["supervisor"]),
                components=[
                    Component(**{**record, "process": _identity(record["process"])})
                    for record in raw["components"]
                ],
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise errors.ConfigurationError(
                f"{place.state}: isn't of this version ({error}); `whipstaff down` first"
            ) from None

    def save(self, place: layout.Layout) -> None:
        """Write the state."""
        contents = orjson.dumps(dataclasses.asdict(self), option=orjson.OPT_INDENT_2)
        files.write(place.state, contents + b"\n", mode=0o600)

    @property
    def supervised(self) -> bool:
        """Whether the supervisor lives."""
        return self.supervisor.process() is not None

    @property
    def settled(self) -> bool:
        """Whether every component serves."""
        return all(component.phase == RUNNING for component in self.components)

    @property
    def failed(self) -> Component | None:
        """The first component that died before it served."""
        return next((found for found in self.components if found.phase == FAILED), None)


def _identity(raw: dict[str, object] | None) -> processes.Identity | None:
    return None if raw is None else processes.Identity(int(str(raw["pid"])), str(raw["birth"]))
