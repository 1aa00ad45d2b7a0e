"""Comparing a deployment with the chain: the contracts' code with this package's artifacts, and
their references to each other.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING, Final

from psymm._core import keccak256
from psymm.chain.addresses import checksummed
from psymm.chain.artifacts import artifact
from psymm.chain.errors import DeploymentInvalid, Reverted
from psymm.nursery import all_of

if TYPE_CHECKING:
    from psymm.chain.deployment import Deployment
    from psymm.chain.transactions import Chain

CONTRACTS: Final = {
    "ctc_verifier": "CtcVerifier",
    "cta_verifier": "CtaVerifier",
    "poseidon2": "Poseidon2",
    "psymm": "PSymm",
    "portal": "TokenPortal",
    "registry": "PartyRegistry",
}
"""The fields of a deployment that are addresses, and the contract at each."""
_RUNS: Final = 6
"""The most often that a creation is simulated."""


async def check(chain: Chain, deployment: Deployment) -> None:
    """Compare a deployment with the chain.  Raises WrongChain, DeploymentInvalid.

    Checks the chain's id; that the code at each address is that of this package's artifacts and of
    the file; that pool, portal and verifiers name each other; the domain.  Tokens are not checked,
    because others can change them: see `changed_tokens` and `Deployment.expect_token`.
    """
    if chain.chain_id != deployment.chain_id:
        raise DeploymentInvalid(
            "chainId", f"is {deployment.chain_id}, and {chain.chain_id} is asked for"
        )
    await chain.check()
    deployment.expect_crs_fits()
    # Independent questions go out together: a node can take seconds to answer each.
    for wrong in await all_of(*(partial(_wrong_code, chain, deployment, n) for n in CONTRACTS)):
        if wrong is not None:
            raise wrong
    pool = deployment.pool(chain)
    of_pool = partial(chain.call, pool.address, pool.abi)
    portal, ctc, cta, owner, domain = await all_of(
        partial(of_pool, "portal"),
        partial(of_pool, "ctcVerifier"),
        partial(of_pool, "ctaVerifier"),
        partial(chain.call, deployment.portal, artifact("TokenPortal").abi, "psymm"),
        pool.domain_separator,
    )
    for view, named, expected in (
        ("portal", portal, deployment.portal),
        ("ctcVerifier", ctc, deployment.ctc_verifier),
        ("ctaVerifier", cta, deployment.cta_verifier),
    ):
        if named != expected:
            raise DeploymentInvalid(view, f"the pool uses {named}, the file says {expected}")
    if owner != deployment.psymm:
        raise DeploymentInvalid("portal", f"it belongs to {owner}, not to the pool")
    if domain != deployment.domain:
        raise DeploymentInvalid("psymm", "its domain separator is not this chain and address")


async def _wrong_code(chain: Chain, deployment: Deployment, name: str) -> DeploymentInvalid | None:
    """How a contract's code on chain differs from file and artifact; None if it does not."""
    address, contract = getattr(deployment, name), CONTRACTS[name]
    code = await chain.code(address)
    if not code:
        return DeploymentInvalid(camel(name), f"there is no contract at {address}")
    # The file's hash first: it costs nothing more, and tells a changed contract from one of another
    # version.
    said = deployment.code_hashes.get(name)
    found = "0x" + keccak256(code).hex()
    if said is not None and said != found:
        return DeploymentInvalid(
            camel(name), f"the code at {address} hashes to {found}, the file says {said}"
        )
    if not await _same_code(chain, deployment, contract, code):
        return DeploymentInvalid(
            camel(name), f"the code at {address} is not this package's {contract}"
        )
    return None


async def _same_code(chain: Chain, deployment: Deployment, contract: str, code: bytes) -> bool:
    """Whether the code on chain is what deploying this package's artifact leaves there.

    The node simulates the creation from several senders.  Bytes that differ between the runs hold
    the contract's own address or follow from it; all others must equal those on chain.  The checks
    of the references find a wrong address.
    """
    made = artifact(contract)
    values: tuple[object, ...] = ()
    if contract == "PSymm":
        values = (deployment.ctc_verifier, deployment.cta_verifier)
    data = made.linked({"Poseidon2": deployment.poseidon2})
    data += made.abi.encode_constructor(*values)
    if contract == "TokenPortal":
        # Bound to its creator, which must be the pool.
        senders = [deployment.psymm]
    else:
        senders = [checksummed("sender", "0x" + secrets.token_hex(20)) for _ in range(_RUNS)]
    runs: list[bytes] = []
    for sender in senders:
        try:
            run = await chain.simulate(None, data, doing=f"creating {contract}", sender=sender)
        except Reverted:
            return False  # the pool calls its verifiers in its constructor, and these are not ours
        if len(run) != len(code):
            return False
        runs.append(run)
        # Stop as soon as every byte is explained. Where two senders' addresses happen to share a
        # byte, it takes another run.
        if all(
            len(set(column)) > 1 or column[0] == found
            for *column, found in zip(*runs, code, strict=True)
        ):
            return True
    return False


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
