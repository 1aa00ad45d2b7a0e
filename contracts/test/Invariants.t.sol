// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {Poseidon2} from "../src/Poseidon2.sol";
import {IPSymm} from "../src/interfaces/IPSymm.sol";
import {World} from "./World.sol";

/// @dev PROPERTIES.md under random calls, with the pool's real proofs and the real verifiers. Before each
/// call a model says whether it must succeed; both must agree. The numbers of the properties are in the
/// assertions' texts.
contract InvariantsTest is World {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    struct Tally {
        string name;
        uint256 done;
        uint256 refused;
    }

    enum Call {
        Deposit,
        SameDeposit,
        LooseCtc,
        LooseCta,
        Chain,
        Replay,
        Forged,
        Swapped
    }

    Tally[8] private tally;

    /// @dev What the model remembers of all calls that succeeded.
    uint256[] private leaves;
    uint256[] private roots;
    Entry[] private played;
    mapping(uint256 nullifier => uint256) private uses;
    mapping(address token => uint256) private paidIn;
    mapping(address token => uint256) private paidOut;
    mapping(address token => uint256) private held;

    function setUp() public override {
        super.setUp();
        string[8] memory names = [
            "deposits",
            "same deposit again",
            "loose CTC",
            "loose CTA",
            "chain",
            "replays",
            "forged proofs",
            "swapped values"
        ];
        for (uint256 i = 0; i < 8; ++i) {
            tally[i].name = names[i];
        }
        // The prefix has been played: the model starts with it.
        for (uint256 i = 0; i < prefix.length; ++i) {
            remember(prefix[i]);
        }
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(this);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        targets[0].addr = address(this);
        bytes4[] memory selectors = new bytes4[](11);
        selectors[0] = this.makeDeposit.selector;
        selectors[1] = this.makeSameDeposit.selector;
        // Twice: these are what the pool is for.
        selectors[2] = this.makeLooseCtc.selector;
        selectors[3] = this.makeLooseCtc.selector;
        selectors[4] = this.makeLooseCta.selector;
        selectors[5] = this.makeLooseCta.selector;
        selectors[6] = this.makeNextOfChain.selector;
        selectors[7] = this.makeReplay.selector;
        selectors[8] = this.forge_.selector;
        selectors[9] = this.swap.selector;
        selectors[10] = this.wait_.selector;
        targets[0].selectors = selectors;
    }

    /* CALLS */

    function makeDeposit(uint256 which, uint256 amount, uint256 inner) external {
        address token = which % 2 == 0 ? address(tokenA) : address(tokenB);
        Deposit memory d = Deposit(token, bound(amount, 1, 1e24), bound(inner, 1, FIELD - 1), memo256());
        attempt(Call.Deposit, Entry(Kind.Atc, "", abi.encode(d)));
    }

    function makeSameDeposit(uint256 which) external {
        which %= played.length;
        while (played[which].kind != Kind.Atc) {
            which = (which + 1) % played.length;
        }
        attempt(Call.SameDeposit, played[which]);
    }

    function makeLooseCtc(uint256 which) external {
        attempt(Call.LooseCtc, looseOf(Kind.Ctc, which));
    }

    function makeLooseCta(uint256 which) external {
        attempt(Call.LooseCta, looseOf(Kind.Cta, which));
    }

    /// @dev The first of the chain that has not been made: valid if all between was of the chain.
    function makeNextOfChain() external {
        uint256 next = 0;
        while (next < chain.length - 1 && psymm.isSpent(firstNullifier(chain[next]))) {
            ++next;
        }
        attempt(Call.Chain, chain[next]);
    }

    function makeReplay(uint256 which) external {
        which %= played.length;
        Entry memory entry = played[which];
        if (entry.kind == Kind.Atc) entry = prefix[prefix.length - 1];
        attempt(Call.Replay, entry);
    }

    /// @dev A proof with a byte changed, or no proof at all.
    function forge_(uint256 which, uint256 at, uint8 by) external {
        Entry memory entry = loose[which % loose.length];
        bytes memory proof = entry.kind == Kind.Ctc ? asCtc(entry).proof : asCta(entry).proof;
        if (by == 0) proof = "";
        else proof[at % proof.length] ^= bytes1(by);
        if (entry.kind == Kind.Ctc) {
            IPSymm.CtcCall memory call = asCtc(entry);
            call.proof = proof;
            entry.data = abi.encode(call);
        } else {
            IPSymm.CtaCall memory call = asCta(entry);
            call.proof = proof;
            entry.data = abi.encode(call);
        }
        attemptBad(Call.Forged, entry);
    }

    /// @dev Somebody's valid proof for somebody else's gain.
    function swap(uint256 which, uint256 what, uint256 by) external {
        Entry memory entry = loose[which % loose.length];
        if (entry.kind == Kind.Ctc) {
            IPSymm.CtcCall memory call = asCtc(entry);
            if (what % 3 == 0) call.commitments[by % 2] = bound(by, 1, FIELD - 1);
            else if (what % 3 == 1) call.nullifiers[by % 2] = bound(by, 1, FIELD - 1);
            else (call.relayer, call.feeToken, call.fee) = (msg.sender, address(tokenA), bound(by, 1, 1e9));
            entry.data = abi.encode(call);
        } else {
            IPSymm.CtaCall memory call = asCta(entry);
            if (what % 4 == 0) call.recipient = msg.sender;
            else if (what % 4 == 1) call.amount += bound(by, 1, 1e9);
            else if (what % 4 == 2) call.nullifiers[0] = bound(by, 1, FIELD - 1);
            else (call.relayer, call.fee) = (msg.sender, bound(by, 1, call.amount));
            entry.data = abi.encode(call);
        }
        attemptBad(Call.Swapped, entry);
    }

    function wait_(uint256 seconds_) external {
        vm.warp(block.timestamp + bound(seconds_, 1, 600));
    }

    /* PROPERTIES */

    /// forge-config: default.invariant.runs = 12
    /// forge-config: default.invariant.depth = 60
    function invariant_thePoolIsSound() external view {
        holdsTheValueOfUnspentNotes();
        usesNoNullifierTwice();
        paysNothingWithoutAProof();
        keepsEveryLeafAndRoot();
    }

    function holdsTheValueOfUnspentNotes() private view {
        address[3] memory tokens = [address(tokenA), address(tokenB), address(hostileToken)];
        uint256[3] memory value;
        for (uint256 i = 0; i < notes.length; ++i) {
            Note memory note = notes[i];
            if (!psymm.isKnownCommitment(note.commitment) || psymm.isSpent(note.nullifier)) continue;
            for (uint256 t = 0; t < 3; ++t) {
                if (note.token == tokens[t]) value[t] += note.amount;
            }
        }
        for (uint256 t = 0; t < 3; ++t) {
            // Notes of random deposits are nobody's: they stay unspent.
            vm.assertEq(balance(tokens[t]), value[t] + held[tokens[t]], "P1: held = unspent notes");
        }
    }

    function usesNoNullifierTwice() private view {
        for (uint256 i = 0; i < notes.length; ++i) {
            uint256 times = uses[notes[i].nullifier];
            vm.assertLe(times, 1, "P2: no nullifier twice");
            vm.assertEq(psymm.isSpent(notes[i].nullifier), times == 1, "P2: spent when used, and for ever");
        }
    }

    function paysNothingWithoutAProof() private view {
        address[3] memory tokens = [address(tokenA), address(tokenB), address(hostileToken)];
        for (uint256 t = 0; t < 3; ++t) {
            vm.assertEq(
                balance(tokens[t]),
                paidIn[tokens[t]] - paidOut[tokens[t]],
                "P3: what left was in a valid move"
            );
        }
    }

    function keepsEveryLeafAndRoot() private view {
        vm.assertEq(psymm.size(), leaves.length, "P4: a leaf for each note");
        for (uint256 i = 0; i < leaves.length; ++i) {
            vm.assertTrue(psymm.isKnownCommitment(leaves[i]), "P4: known for ever");
        }
        for (uint256 i = 0; i < roots.length; ++i) {
            vm.assertTrue(psymm.isKnownRoot(roots[i]), "P5: every root is accepted for ever");
        }
        vm.assertTrue(psymm.isKnownRoot(psymm.root()), "P5: the root now is known");
        vm.assertFalse(psymm.isKnownRoot(0), "P5: zero never is");
    }

    /// @dev Once a run: the root is that of all leaves by the tree's definition. And the tally, which the
    /// environment carries from run to run.
    function afterInvariant() external {
        vm.assertEq(psymm.root(), plainRoot(), "P6: the root is that of the leaves");
        string memory line = "calls of all runs, done/refused:";
        for (uint256 i = 0; i < tally.length; ++i) {
            line = string.concat(
                line,
                i == 0 ? " " : ", ",
                tally[i].name,
                " ",
                vm.toString(carried(string.concat("PSYMM_TALLY_DONE_", vm.toString(i)), tally[i].done)),
                "/",
                vm.toString(carried(string.concat("PSYMM_TALLY_REFUSED_", vm.toString(i)), tally[i].refused))
            );
        }
        print(line);
    }

    function carried(string memory name, uint256 more) private returns (uint256 sum) {
        sum = vm.envOr(name, uint256(0)) + more;
        vm.setEnv(name, vm.toString(sum));
    }

    /* THE MODEL */

    /// @dev Makes a call; it must succeed if and only if the model says so.
    function attempt(Call kind, Entry memory entry) private {
        bool expected = isValid(entry);
        bool done = tryPlay(entry);
        vm.assertEq(done, expected, "P7: what is valid is done, what is not is refused");
        if (done) remember(entry);
        count(kind, done);
    }

    function attemptBad(Call kind, Entry memory entry) private {
        bool done = tryPlay(entry);
        vm.assertFalse(done, "P3: nothing moves without a valid proof of these very values");
        count(kind, done);
    }

    function count(Call kind, bool done) private {
        if (done) ++tally[uint256(kind)].done;
        else ++tally[uint256(kind)].refused;
    }

    function tryPlay(Entry memory entry) private returns (bool done) {
        bytes memory data;
        if (entry.kind == Kind.Ctc) {
            data = abi.encodeCall(IPSymm.custodyToCustody, (asCtc(entry)));
        } else if (entry.kind == Kind.Cta) {
            data = abi.encodeCall(IPSymm.custodyToAddress, (asCta(entry)));
        } else {
            Deposit memory d = asDeposit(entry);
            tokenA.mint(DEPOSITOR, d.amount);
            tokenB.mint(DEPOSITOR, d.amount);
            hostileToken.mint(DEPOSITOR, d.amount);
            vm.prank(DEPOSITOR);
            data = abi.encodeCall(IPSymm.addressToCustody, (d.token, d.amount, d.inner, d.memo));
        }
        (done,) = address(psymm).call{gas: 4_000_000}(data);
    }

    function isValid(Entry memory entry) private view returns (bool) {
        if (entry.kind == Kind.Atc) return !inTree(commitmentOf(asDeposit(entry)));
        if (entry.kind == Kind.Ctc) {
            IPSymm.CtcCall memory call = asCtc(entry);
            return block.timestamp <= call.deadline && hadRoot(call.root) && uses[call.nullifiers[0]] == 0
                && uses[call.nullifiers[1]] == 0 && !inTree(call.commitments[0])
                && !inTree(call.commitments[1]);
        }
        IPSymm.CtaCall memory call_ = asCta(entry);
        return block.timestamp <= call_.deadline && hadRoot(call_.root) && uses[call_.nullifiers[0]] == 0
            && uses[call_.nullifiers[1]] == 0 && !inTree(call_.change);
    }

    function remember(Entry memory entry) private {
        if (entry.kind == Kind.Atc) {
            Deposit memory d = asDeposit(entry);
            uint256 commitment = commitmentOf(d);
            leaves.push(commitment);
            paidIn[d.token] += d.amount;
            if (!isOfPool(commitment)) held[d.token] += d.amount;
        } else if (entry.kind == Kind.Ctc) {
            IPSymm.CtcCall memory call = asCtc(entry);
            ++uses[call.nullifiers[0]];
            ++uses[call.nullifiers[1]];
            leaves.push(call.commitments[0]);
            leaves.push(call.commitments[1]);
            paidOut[call.feeToken] += call.fee;
        } else {
            IPSymm.CtaCall memory call = asCta(entry);
            ++uses[call.nullifiers[0]];
            ++uses[call.nullifiers[1]];
            leaves.push(call.change);
            paidOut[call.token] += call.amount;
        }
        played.push(entry);
        // Of the prefix, played before the model began, the roots are told by the definition.
        roots.push(leaves.length == psymm.size() ? psymm.root() : plainRoot());
    }

    function commitmentOf(Deposit memory d) private pure returns (uint256) {
        return Poseidon2.hash3(d.inner, uint256(uint160(d.token)), d.amount);
    }

    function inTree(uint256 commitment) private view returns (bool) {
        for (uint256 i = 0; i < leaves.length; ++i) {
            if (leaves[i] == commitment) return true;
        }
        return false;
    }

    function hadRoot(uint256 root) private view returns (bool) {
        for (uint256 i = 0; i < roots.length; ++i) {
            if (roots[i] == root) return true;
        }
        return false;
    }

    function isOfPool(uint256 commitment) private view returns (bool) {
        for (uint256 i = 0; i < notes.length; ++i) {
            if (notes[i].commitment == commitment) return true;
        }
        return false;
    }

    function firstNullifier(Entry memory entry) private pure returns (uint256) {
        return entry.kind == Kind.Ctc ? asCtc(entry).nullifiers[0] : asCta(entry).nullifiers[0];
    }

    function looseOf(Kind kind, uint256 which) private view returns (Entry memory) {
        which %= loose.length;
        while (loose[which].kind != kind) {
            which = (which + 1) % loose.length;
        }
        return loose[which];
    }

    function balance(address token) private view returns (uint256) {
        if (token == address(hostileToken)) return hostileToken.held(portal);
        return token == address(tokenA) ? tokenA.balanceOf(portal) : tokenB.balanceOf(portal);
    }

    function plainRoot() private view returns (uint256) {
        uint256 size = leaves.length;
        uint256[] memory level = leaves;
        while (size > 1) {
            for (uint256 i = 0; i < size; i += 2) {
                level[i / 2] = i + 1 < size ? Poseidon2.hash2(level[i], level[i + 1]) : level[i];
            }
            size = (size + 1) / 2;
        }
        return level[0];
    }
}
