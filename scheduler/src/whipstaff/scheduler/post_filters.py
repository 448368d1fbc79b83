"""Asking PostFilter plugins for a way to make room for a pod that fits nowhere.

No loop runs here. The plugins are asked in the profile's order; the first that succeeds, or knows
that nothing helps, ends it.

Answers to `RunPostFilterPlugins` in `pkg/scheduler/framework/runtime/framework.go`. Where a profile
names DynamicResources, which isn't built here, its place says what upstream's says about a pod
without resource claims, so that `FailedScheduling` reads the same: usually that there are none, and
`not found` where it was never asked in PreFilter, which there counts as a failure and ends it.
"""

import dataclasses
from collections.abc import Sequence

from whipstaff.scheduler import diagnosis, evaluation, framework, nominator, pods, profile, snapshot
from whipstaff.scheduler import trial as trials

POST_FILTER = 'running PostFilter plugin "{}"'
NO_CLAIMS = "no new claims to deallocate"
NEVER_ASKED = "not found"

_DYNAMIC_RESOURCES = "DynamicResources"
_UNRESOLVABLE = framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What came of it: the plugins' texts as one, and what the last of them with a say wants."""

    message: str
    outcome: framework.PostFiltered
    asked: frozenset[str]
    """The plugins that were asked."""
    before: tuple[str, ...] = ()
    """What those said that had no way to make room, before the last one had."""


def run(
    pod: pods.PodInfo,
    plugins: profile.Profile,
    cluster: snapshot.Snapshot,
    promises: nominator.Nominator,
    failure: diagnosis.FitError,
) -> Answer | None:
    """Asks the plugins; None if the profile has none. A plugin's failure becomes an answer too."""
    texts: list[str] = []
    if _comes_first(plugins):
        if failure.pre_filter_message and _ended_early(plugins, failure.statuses.absent):
            return _answer(framework.Status(framework.Code.ERROR, (NEVER_ASKED,)), set())
        texts.append(NO_CLAIMS)
    elif not plugins.post_filters:
        return None
    asked: set[str] = set()
    nominated: str | None = None
    for plugin in plugins.post_filters:
        asked.add(plugin.name)
        try:
            trying = trials.Trial(pod, plugins, cluster, promises)
            question = plugin.post_filter
            arguments = (pod, cluster, failure.statuses, trying)
            found = evaluation.ask(POST_FILTER, plugin.name, question, *arguments)
        except framework.PluginError as error:
            return _answer(framework.Status(framework.Code.ERROR, (str(error),)), asked)
        status = found.status
        if status.is_success or not status.is_rejected or status.code == _UNRESOLVABLE:
            return _answer(status, asked, found, texts)
        if found.nominated is not None:
            nominated = found.nominated
        texts.extend(status.reasons)
    status = framework.Status(framework.Code.UNSCHEDULABLE, tuple(texts))
    return _answer(status, asked, framework.PostFiltered(status, nominated))


def _answer(
    status: framework.Status,
    asked: set[str],
    outcome: framework.PostFiltered | None = None,
    before: Sequence[str] = (),
) -> Answer:
    outcome = outcome or framework.PostFiltered(status)
    return Answer(status.message, outcome, frozenset(asked), tuple(before))


def overruled(answer: Answer, status: framework.Status) -> Answer:
    """The answer once somebody else found that it doesn't do."""
    if status.is_rejected:
        status = framework.Status(status.code, (*answer.before, *status.reasons))
    return _answer(status, set(answer.asked))


def _comes_first(plugins: profile.Profile) -> bool:
    """Whether DynamicResources is named at this point before the plugins that are here."""
    if _DYNAMIC_RESOURCES in plugins.plugins:
        return False
    named = plugins.points.get("postFilter", ())
    here = (named.index(plugin.name) for plugin in plugins.post_filters if plugin.name in named)
    return _DYNAMIC_RESOURCES in named[: min(here, default=len(named))]


def _ended_early(plugins: profile.Profile, status: framework.Status) -> bool:
    """Whether PreFilter ended before it would have come to DynamicResources."""
    named = plugins.points.get("preFilter", ())
    if status.code != _UNRESOLVABLE or _DYNAMIC_RESOURCES not in named:
        return False
    return not status.plugin or status.plugin in named[: named.index(_DYNAMIC_RESOURCES)]
