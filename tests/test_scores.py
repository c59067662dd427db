"""Which paths are likely to block, by what they did before."""

import pytest

from fastfcgi.scores import Scores

EAGER = 13  # scores.pxd
QUICK, BLOCKED = -1, 12


def noted(*changes, path="/a/1", scores=None):
    scores = scores or Scores()
    for change in changes:
        scores.note(path, change)
    return scores.score(path)


def quick_scores():
    """Scores in which paths that are not known are quick."""
    scores = Scores()
    for number in range(100):
        scores.note(f"/quick{number}/", QUICK)
    return scores


def test_what_is_not_known_may_block():
    assert Scores().score("/") >= EAGER
    assert Scores().score("") >= EAGER


@pytest.mark.parametrize(
    ("changes", "eager"),
    [
        ([QUICK], False),
        ([BLOCKED], False),
        ([QUICK, BLOCKED], False),
        ([BLOCKED, BLOCKED], True),
        ([BLOCKED] + [QUICK] * 11 + [BLOCKED], True),  # two within a dozen calls
        ([BLOCKED] + [QUICK] * 12 + [BLOCKED], False),
        ([BLOCKED] * 2 + [QUICK] * 11, True),
        ([BLOCKED] * 2 + [QUICK] * 12, False),
        ([BLOCKED] * 100 + [QUICK] * 23, True),  # forgotten after two dozen
        ([BLOCKED] * 100 + [QUICK] * 24, False),
    ],
)
def test_two_blocks_make_a_path_eager_and_quick_calls_end_that(changes, eager):
    assert (noted(*changes) >= EAGER) is eager


def test_scores_have_bounds():
    assert noted(*[QUICK] * 1000) == 0
    assert noted(*[BLOCKED] * 1000) == 36
    assert noted(127) == 36


def test_paths_are_judged_each_for_itself():
    scores = quick_scores()
    noted(BLOCKED, BLOCKED, path="/slow", scores=scores)
    noted(QUICK, path="/fast", scores=scores)
    assert scores.score("/slow") >= EAGER > scores.score("/fast")


def test_a_path_that_is_not_known_is_judged_by_its_first_segment():
    """As /users/1, /users/2 and so on are."""
    scores = quick_scores()
    for number in range(5):
        scores.note(f"/wiki/{number}", BLOCKED)
    assert scores.score("/wiki/5") >= EAGER
    assert scores.score("/wiki") >= EAGER
    assert scores.score("/wiki2") < EAGER
    assert scores.score("/users/5") < EAGER
    for number in range(100):
        scores.note(f"/wiki/{number}/quick", QUICK)
    assert scores.score("/wiki/5") < EAGER


def test_a_path_that_is_known_is_not_judged_by_its_first_segment():
    scores = quick_scores()
    noted(*[QUICK] * 30, path="/wiki/quick", scores=scores)
    for number in range(5):
        scores.note(f"/wiki/{number}", BLOCKED)
    assert scores.score("/wiki/other") >= EAGER > scores.score("/wiki/quick")


def test_known_paths_say_nothing_about_others():
    """One page that is asked for all the time is not the whole site."""
    scores = quick_scores()
    noted(*[BLOCKED] * 30, path="/wiki/slow", scores=scores)
    assert scores.score("/wiki/slow") == 36
    assert scores.score("/other") < EAGER


def test_what_is_not_known_at_all_is_judged_by_all_such_paths():
    scores = Scores()
    for number in range(23):
        scores.note(f"/segment{number}/", QUICK)
    assert scores.score("/another/") >= EAGER
    scores.note("/segment23/", QUICK)
    assert scores.score("/another/") < EAGER
    for number in range(2):
        scores.note(f"/slow{number}/", BLOCKED)
    assert scores.score("/another/") >= EAGER


def test_a_segment_begins_with_what_is_thought_of_all():
    """One quick path does not make all of a site known."""
    for scores, eager in ((Scores(), True), (quick_scores(), False)):
        scores.note("/a/1", QUICK)
        assert (scores.score("/a/2") >= EAGER) is eager


@pytest.mark.parametrize("path", ["", "/", "//", "no slash", "/" * 1000, "/\xe4/b", "/\u20ac/b"])
def test_any_str_is_a_path(path):
    scores = quick_scores()
    assert noted(BLOCKED, BLOCKED, path=path, scores=scores) >= EAGER
    assert noted(*[QUICK] * 30, path=path, scores=scores) == 0


def test_the_first_segment_ends_somewhere():
    """However long it is, the rest of a path costs no time."""
    scores = quick_scores()
    for number in range(5):
        scores.note("/" + "x" * 100 + str(number), BLOCKED)
    assert scores.score("/" + "x" * 100 + "another") >= EAGER
    assert scores.score("/" + "x" * 50) < EAGER


def test_more_paths_than_there_is_room_for():
    scores = Scores()
    for number in range(100_000):
        scores.note(f"/{number % 1000}/{number}", QUICK)
    assert sum(scores.score(f"/{number % 1000}/{number}") < EAGER for number in range(1000)) == 1000
    noted(BLOCKED, BLOCKED, path="/slow", scores=scores)
    assert scores.score("/slow") >= EAGER


def test_none_is_no_path():
    for call in (Scores().score, lambda path: Scores().note(path, 1)):
        with pytest.raises(TypeError):
            call(None)
