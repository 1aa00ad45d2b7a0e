// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {PSymm} from "../src/PSymm.sol";
import {IPSymm} from "../src/interfaces/IPSymm.sol";
import {ITokenPortal} from "../src/interfaces/ITokenPortal.sol";
import {IVerifier} from "../src/interfaces/IVerifier.sol";
import {TestToken} from "../src/test-support/TestToken.sol";
import {CtaVerifier} from "../src/verifiers/CtaVerifier.sol";
import {CtcVerifier} from "../src/verifiers/CtcVerifier.sol";
import {HostileToken} from "./HostileTokens.sol";
import {Test} from "./Vm.sol";

/// @dev The contracts with their real verifiers, at the addresses for which contracts/pool/make_pool.py
/// made its proofs, and those proofs.
abstract contract World is Test {
    uint256 internal constant FIELD = 0x30644e72e131a029b85045b68181585d2833e84879b9709143e1f593f0000001;
    uint256 internal constant START = 1_800_000_000;
    address internal constant DEPLOYER = address(0xd0001);
    address internal constant DEPOSITOR = address(0xd0002);

    enum Kind {
        Atc,
        Ctc,
        Cta
    }

    /// @dev A move of the pool; `data` is its call struct, ABI-encoded.
    struct Entry {
        Kind kind;
        string name;
        bytes data;
    }

    struct Deposit {
        address token;
        uint256 amount;
        uint256 inner;
        bytes memo;
    }

    /// @dev A note of the pool, opened as far as accounting needs.
    struct Note {
        uint256 commitment;
        uint256 nullifier;
        address token;
        uint256 amount;
    }

    IVerifier internal ctcVerifier;
    IVerifier internal ctaVerifier;
    PSymm internal psymm;
    address internal portal;
    TestToken internal tokenA;
    TestToken internal tokenB;
    HostileToken internal hostileToken;

    Entry[] internal prefix;
    Entry[] internal loose;
    Entry[] internal chain;
    Entry[] internal hostile;
    Note[] internal notes;

    /// @dev Contracts, pool, and the prefix of moves on which all its roots build.
    function setUp() public virtual {
        deploy();
        readPool();
        for (uint256 i = 0; i < prefix.length; ++i) {
            play(prefix[i]);
        }
    }

    function deploy() internal {
        vm.warp(START);
        vm.startPrank(DEPLOYER);
        ctcVerifier = IVerifier(address(new CtcVerifier()));
        ctaVerifier = IVerifier(address(new CtaVerifier()));
        psymm = new PSymm(ctcVerifier, ctaVerifier);
        tokenA = new TestToken("Test dollar", "TUSD", 6);
        tokenB = new TestToken("Test ether", "TETH", 18);
        hostileToken = new HostileToken();
        vm.stopPrank();
        portal = address(psymm.portal());
        vm.startPrank(DEPOSITOR);
        tokenA.approve(portal, type(uint256).max);
        tokenB.approve(portal, type(uint256).max);
        hostileToken.approve(portal, type(uint256).max);
        vm.stopPrank();
    }

    function readPool() internal {
        string memory path = "../build/pool.json";
        vm.assertTrue(vm.exists(path), "the proofs are missing: run contracts/pool/make_pool.py");
        string memory json = vm.readFile(path);
        vm.assertEq(vm.parseJsonAddress(json, ".psymm"), address(psymm), "the pool is for this address");
        (Entry[] memory a, Entry[] memory b, Entry[] memory c, Entry[] memory d, Note[] memory n) =
            abi.decode(vm.parseJsonBytes(json, ".abi"), (Entry[], Entry[], Entry[], Entry[], Note[]));
        copy(a, prefix);
        copy(b, loose);
        copy(c, chain);
        copy(d, hostile);
        for (uint256 i = 0; i < n.length; ++i) {
            notes.push(n[i]);
        }
    }

    function copy(Entry[] memory from, Entry[] storage to) private {
        for (uint256 i = 0; i < from.length; ++i) {
            to.push(from[i]);
        }
    }

    /* MOVES */

    /// @dev Makes the move; reverts as the contract does.
    function play(Entry memory entry) internal {
        if (entry.kind == Kind.Ctc) {
            psymm.custodyToCustody(asCtc(entry));
        } else if (entry.kind == Kind.Cta) {
            psymm.custodyToAddress(asCta(entry));
        } else {
            Deposit memory d = asDeposit(entry);
            deposit(d.token, d.amount, d.inner, d.memo);
        }
    }

    function deposit(address token, uint256 amount, uint256 inner, bytes memory memo)
        internal
        returns (uint256)
    {
        TestToken(token).mint(DEPOSITOR, amount);
        vm.prank(DEPOSITOR);
        return psymm.addressToCustody(token, amount, inner, memo);
    }

    function asCtc(Entry memory entry) internal pure returns (IPSymm.CtcCall memory) {
        return abi.decode(entry.data, (IPSymm.CtcCall));
    }

    function asCta(Entry memory entry) internal pure returns (IPSymm.CtaCall memory) {
        return abi.decode(entry.data, (IPSymm.CtaCall));
    }

    function asDeposit(Entry memory entry) internal pure returns (Deposit memory) {
        return abi.decode(entry.data, (Deposit));
    }

    /// @dev The first loose CTC, or CTA, that pays a relayer, or does not.
    function looseCtc(bool withFee) internal view returns (IPSymm.CtcCall memory call) {
        for (uint256 i = 0; i < loose.length; ++i) {
            if (loose[i].kind != Kind.Ctc) continue;
            call = asCtc(loose[i]);
            if ((call.fee != 0) == withFee && call.deadline > START + 1 days) return call;
        }
        revert("the pool has no such CTC");
    }

    function looseCta(bool withFee) internal view returns (IPSymm.CtaCall memory call) {
        for (uint256 i = 0; i < loose.length; ++i) {
            if (loose[i].kind != Kind.Cta) continue;
            call = asCta(loose[i]);
            bool all = call.fee == call.amount;
            if ((call.fee != 0) == withFee && !all && call.deadline > START + 1 days) return call;
        }
        revert("the pool has no such CTA");
    }

    function memo256() internal pure returns (bytes memory) {
        return new bytes(256);
    }
}
