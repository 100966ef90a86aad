"""What lies in a remote root, to be compared with a folder: `python -m tests.remote URL`."""

import hashlib
import json
import sys

from meta_reward_core.storage.artifact_store import ArtifactStore


def digests_of(url: str) -> dict[str, str]:
    """Hash every file of the experiment but the lock."""
    store = ArtifactStore(url)
    return {
        f"tiny/{name}": hashlib.sha256(store.read(f"tiny/{name}")).hexdigest()
        for name in store.list_sizes("tiny")
        if not name.startswith(".lock/")
    }


def comparable(digests: dict[str, str]) -> dict[str, str]:
    """Without what a remote root alone has (M0), and what names a folder of the machine."""
    return {
        name: digest
        for name, digest in digests.items()
        if name != "tiny/experiment.json" and "iteration-0/checkpoint/" not in name
    }


def main() -> None:
    json.dump(digests_of(sys.argv[1]), sys.stdout)


if __name__ == "__main__":
    main()
