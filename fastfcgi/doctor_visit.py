"""What all checks of `fastfcgi doctor URL` have in common: where they ask, and whom."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastfcgi import doctor_advice
from fastfcgi.doctor_http import Answer, HTTPFailure, Site

if TYPE_CHECKING:
    from fastfcgi.doctor_serve import ProbeServer


class NotTold(Exception):
    """The probe has not answered: the web server has done so itself, or nobody has.

    Attributes:
        answer: What came, None if nothing did.
    """

    def __init__(self, text: str, answer: Answer | None = None) -> None:
        super().__init__(text)
        self.answer = answer

    @property
    def status(self) -> int:
        """HTTP status of what came; 0 if nothing did."""
        return self.answer.status if self.answer else 0


def told(answer: Answer) -> dict[str, Any]:
    """What the probe tells in this answer to the task "report".

    Raises:
        NotTold: It is cut, or changed on the way, or somebody else's.
    """
    try:
        found: Any = json.loads(answer.body)
        environ, body = found["environ"], found["body"]
        good = isinstance(body["length"], int) and all(
            isinstance(text, str) for text in (body["sha256"], body["error"], *environ.values())
        )
        good = good and {"authorization", "proxy", "proxied"} <= set(found)
    except (ValueError, LookupError, TypeError, AttributeError):
        good = False
    if not good:
        raise NotTold("the answer is not as a probe makes it", answer)
    report: dict[str, Any] = found
    return report


@dataclass
class Visit:
    """One examination.

    Attributes:
        server: Kind of the web server, as in doctor_advice.SERVERS.
        address: Of the application, as in --bind; "" if it is not known.
        served: The probe, if this process serves it.
    """

    site: Site
    server: str = ""
    address: str = ""
    served: "ProbeServer | None" = None

    def advice(self, key: str) -> tuple[str, ...]:
        """What to change in the web server that was recognised."""
        return doctor_advice.lines(key, self.server, self.site.mount, self.address)

    def answer(self, target: str, task: str = "report", **options: Any) -> Answer:
        """An answer of the probe; arguments as for Site.ask().

        Raises:
            NotTold: There is none.
        """
        try:
            answer = self.site.ask(target, task, **options)
        except HTTPFailure as failure:
            raise NotTold(str(failure)) from failure
        if not answer.of_probe:
            raise NotTold(f"the web server answers {answer.status} {answer.reason}", answer)
        return answer

    def report(self, target: str, task: str = "report", **options: Any) -> dict[str, Any]:
        """What the probe tells of such a request; arguments as for Site.ask().

        Raises:
            NotTold: It does not.
        """
        answer = self.answer(target, task, **options)
        if answer.status != 200:
            raise NotTold(f"the answer is {answer.status} {answer.reason}", answer)
        return told(answer)

    def has_seen(self, name: str) -> bool:
        """Whether a request with this name in the header probe.ID has begun.

        Raises:
            NotTold: The probe does not tell.
        """
        return self.answer("/doctor/seen", f"seen:{name}").body.strip() == b"true"

    def environ(self, target: str, **options: Any) -> dict[str, str]:
        """The environ of such a request.

        Raises:
            NotTold: The probe does not tell.
        """
        found: dict[str, str] = self.report(target, **options)["environ"]
        return found
