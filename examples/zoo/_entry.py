"""What an entry of the zoo says about itself, for the table in its README."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One reported bug.

    Attributes:
      bug: its number in our catalogue: A for tf.distribute and Keras, B for Horovod,
        C for what is known from other frameworks, E for silent bugs of Keras, F for
        errors that TrainCheck reproduced, G for token counts.
      title: what was done wrong, in a few words.
      reported: issues and pull requests, as "owner/repository#number".
      cause: the finding of `distloss audit` on `wrong`; "cannot-tell" where it is right
        to name none.
      engine: how replicas are made: "strategy" or "horovod".
      mended_by: what `mended` does instead.
    """

    bug: str
    title: str
    reported: tuple[str, ...]
    cause: str
    engine: str
    mended_by: str


@dataclass(frozen=True)
class NotRun:
    """A reported bug that has no entry.

    Attributes:
      bug: its number in our catalogue.
      title: what goes wrong.
      reported: issues and pull requests, as "owner/repository#number".
      why: why it has no entry.
    """

    bug: str
    title: str
    reported: tuple[str, ...]
    why: str


def links(reported: tuple[str, ...]) -> list[str]:
    """Markdown links to what is named as "owner/repository#number"."""
    found = []
    for name in reported:
        repository, number = name.split("#")
        address = f"https://github.com/{repository}/issues/{number}"
        found.append(f"[{repository.split('/')[1]} #{number}]({address})")
    return found
