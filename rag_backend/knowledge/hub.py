"""Whether a model can be had from the hub, before a library tries again and again for minutes.

The only module of this package that imports huggingface_hub.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from httpx2 import HTTPError
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

from rag_backend.errors import StartError

_SECONDS = 10.0
"""Longest wait for the hub's answer."""


_FAILURES = (OSError, ValueError, KeyError, RuntimeError)
"""What loading raises where files are missing or are not a model."""

T = TypeVar("T")


def here_or_from_hub(
    load: Callable[[bool], T], model: str, local: bool, setting: str, otherwise: str = ""
) -> T:
    """What `load` loads: with True, from this machine alone; with False, from the hub.

    What has been downloaded needs no connection. `local`: the model is a folder. See `check_hub`.

    Raises:
        StartError: It is not here, and the hub will not have it.
        OSError, ValueError, KeyError, RuntimeError: It is no such model.
    """
    if local:
        return load(True)
    if _was_loaded(model):
        with suppress(*_FAILURES):  # a download that was cut short, say
            return load(True)
    check_hub(model, setting, otherwise)
    return load(False)


def _was_loaded(model: str) -> bool:
    """Whether sentence-transformers has once asked the hub for it.

    Weights that another library left in the cache are not enough: without `modules.json` it would
    take a pooling of its own choice, and nobody would notice.
    """
    names = [model] if "/" in model else [f"sentence-transformers/{model}", model]
    with suppress(HFValidationError):
        return any(try_to_load_from_cache(name, "modules.json") is not None for name in names)
    return False


def check_hub(model: str, setting: str, otherwise: str = "") -> None:
    """Ask the hub, once, for a model that is not on this machine.

    Args:
        setting: The variable that names it.
        otherwise: What may be set instead, as the end of a sentence.

    Raises:
        StartError: It has no such model, or does not answer; says what to do.
    """
    try:
        HfApi().model_info(model, timeout=_SECONDS)
    except HFValidationError as error:
        raise StartError(
            f"{setting}={model}: there is no such folder, and it is no Hugging Face id: give one "
            f"of them{otherwise}."
        ) from error
    except GatedRepoError as error:
        raise StartError(
            f"{setting}={model}: its authors ask for an agreement and a token: accept it on "
            f"https://huggingface.co/{model}, then set HF_TOKEN or run `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:  # the hub says 401, not 404, to those it does not know
        if "/" not in model:
            return  # short names are sentence-transformers' own, who knows where they are
        raise StartError(
            f"{setting}={model}: there is no such folder here and no such public model on the hub: "
            "check the spelling; for a private model set HF_TOKEN or run `hf auth login`."
        ) from error
    except (HTTPError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StartError(
            f"{setting}={model}: it is not on this machine, and the hub cannot be reached "
            f"({reason}): on a machine with internet run `hf download {model} --local-dir FOLDER`, "
            f"copy the folder here and name it in {setting}{otherwise}."
        ) from error
