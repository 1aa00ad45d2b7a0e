// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {PSymm} from "../src/PSymm.sol";
import {Poseidon2} from "../src/Poseidon2.sol";
import {IPSymm} from "../src/interfaces/IPSymm.sol";
import {ITokenPortal} from "../src/interfaces/ITokenPortal.sol";
import {IVerifier} from "../src/interfaces/IVerifier.sol";
import {CtcVerifier} from "../src/verifiers/CtcVerifier.sol";
import {World} from "./World.sol";

/// @dev Names any reference string and accepts no proof at all; for what PSymm does where the generated
/// verifiers of this build refuse to exist.
contract RefusingVerifier {
    string public REFERENCE_STRING;

    constructor(string memory referenceString) {
        REFERENCE_STRING = referenceString;
    }

    function verify(bytes calldata, bytes32[] calldata) external pure returns (bool) {
        return false;
    }
}

/// @dev Deposits, CTC and CTA: what they do, and every way to be refused, with real proofs.
/// This file is long because the three moves are refused for the same reasons, side by side.
contract MovesTest is World {
    address private constant SENDER = address(0x5e4d);

    /* ATC */

    function test_aDepositMakesANoteAndTakesTheTokens() public {
        uint256 held = tokenA.balanceOf(portal);
        uint256 size = psymm.size();
        uint256 commitment = Poseidon2.hash3(77, uint256(uint160(address(tokenA))), 500);
        tokenA.mint(DEPOSITOR, 500);
        vm.expectEmit(address(psymm));
        emit IPSymm.NoteInserted(size, commitment, memo256());
        vm.expectEmit(address(psymm));
        emit IPSymm.Deposited(address(tokenA), DEPOSITOR, 500, commitment);
        vm.prank(DEPOSITOR);
        uint256 returned = psymm.addressToCustody(address(tokenA), 500, 77, memo256());
        vm.assertEq(returned, commitment, "H3(inner, token, amount)");
        vm.assertEq(tokenA.balanceOf(portal), held + 500, "the portal holds the tokens");
        vm.assertEq(psymm.size(), size + 1, "one leaf");
        vm.assertTrue(psymm.isKnownCommitment(commitment), "in the tree");
        vm.assertTrue(psymm.isKnownRoot(psymm.root()), "the new root is known");
    }

    function test_aDepositOfNothingIsRefused() public {
        vm.expectRevert(IPSymm.AmountZero.selector);
        psymm.addressToCustody(address(tokenA), 0, 77, memo256());
    }

    function test_aDepositOf2To128IsRefused() public {
        vm.expectRevert(abi.encodeWithSelector(IPSymm.AmountTooLarge.selector, 1 << 128));
        psymm.addressToCustody(address(tokenA), 1 << 128, 77, memo256());
    }

    function test_theLargestDepositIsTaken() public {
        deposit(address(tokenA), (1 << 128) - 1, 77, memo256());
    }

    function test_anInnerOfZeroIsRefused() public {
        vm.expectRevert(IPSymm.InnerZero.selector);
        psymm.addressToCustody(address(tokenA), 1, 0, memo256());
    }

    function test_anInnerAtTheModulusIsRefused() public {
        vm.expectRevert(abi.encodeWithSelector(IPSymm.NotInField.selector, FIELD));
        psymm.addressToCustody(address(tokenA), 1, FIELD, memo256());
    }

    function test_aMemoOfAnotherLengthIsRefused() public {
        vm.expectRevert(abi.encodeWithSelector(IPSymm.MemoLength.selector, 255));
        psymm.addressToCustody(address(tokenA), 1, 77, new bytes(255));
        vm.expectRevert(abi.encodeWithSelector(IPSymm.MemoLength.selector, 257));
        psymm.addressToCustody(address(tokenA), 1, 77, new bytes(257));
    }

    function test_theSameNoteTwiceIsRefused() public {
        uint256 commitment = deposit(address(tokenA), 5, 77, memo256());
        tokenA.mint(DEPOSITOR, 5);
        vm.expectRevert(abi.encodeWithSelector(IPSymm.CommitmentKnown.selector, commitment));
        vm.prank(DEPOSITOR);
        psymm.addressToCustody(address(tokenA), 5, 77, memo256());
    }

    function test_aFullTreeTakesNoMore() public {
        vm.store(address(psymm), bytes32(0), bytes32(uint256(1 << 32)));
        vm.expectRevert(abi.encodeWithSelector(IPSymm.TreeFull.selector, 1 << 32));
        psymm.addressToCustody(address(tokenA), 5, 77, memo256());
        IPSymm.CtaCall memory cta = looseCta(true);
        vm.expectRevert(abi.encodeWithSelector(IPSymm.TreeFull.selector, 1 << 32));
        psymm.custodyToAddress(cta);
    }

    function test_aTreeWithOneFreeLeafTakesNoTwo() public {
        vm.store(address(psymm), bytes32(0), bytes32(uint256((1 << 32) - 1)));
        IPSymm.CtcCall memory ctc = looseCtc(true);
        vm.expectRevert(abi.encodeWithSelector(IPSymm.TreeFull.selector, (1 << 32) - 1));
        psymm.custodyToCustody(ctc);
        psymm.custodyToAddress(looseCta(true));
        vm.assertEq(psymm.size(), 1 << 32, "the last leaf is taken");
        vm.assertTrue(psymm.isKnownRoot(psymm.root()), "and the full tree has a root");
    }

    /* CTC */

    function test_aCtcSpendsTwoNotesForTwo() public {
        IPSymm.CtcCall memory call = looseCtc(false);
        uint256 size = psymm.size();
        for (uint256 i = 0; i < 2; ++i) {
            vm.expectEmit(address(psymm));
            emit IPSymm.NullifierSpent(call.nullifiers[i]);
        }
        vm.expectEmit(address(psymm));
        emit IPSymm.NoteInserted(size, call.commitments[0], call.memo0);
        vm.expectEmit(address(psymm));
        emit IPSymm.NoteInserted(size + 1, call.commitments[1], call.memo1);
        psymm.custodyToCustody(call);
        vm.assertTrue(psymm.isSpent(call.nullifiers[0]) && psymm.isSpent(call.nullifiers[1]), "both spent");
        vm.assertTrue(psymm.isKnownCommitment(call.commitments[0]), "first new note");
        vm.assertTrue(psymm.isKnownCommitment(call.commitments[1]), "second new note");
        vm.assertEq(psymm.size(), size + 2, "two leaves");
        vm.assertTrue(psymm.isKnownRoot(psymm.root()), "the new root is known");
    }

    function test_aCtcPaysTheRelayerWhoeverSends() public {
        IPSymm.CtcCall memory call = looseCtc(true);
        uint256 held = tokenA.balanceOf(call.relayer);
        if (call.feeToken != address(tokenA)) held = tokenB.balanceOf(call.relayer);
        vm.expectEmit(address(psymm));
        emit IPSymm.FeePaid(call.feeToken, call.relayer, call.fee);
        vm.prank(SENDER);
        psymm.custodyToCustody(call);
        uint256 now_ = call.feeToken == address(tokenA)
            ? tokenA.balanceOf(call.relayer)
            : tokenB.balanceOf(call.relayer);
        vm.assertEq(now_ - held, call.fee, "the relayer has its fee");
    }

    function test_aNoteIsSpentOnce() public {
        IPSymm.CtcCall memory call = looseCtc(true);
        psymm.custodyToCustody(call);
        vm.expectRevert(abi.encodeWithSelector(IPSymm.NullifierAlreadySpent.selector, call.nullifiers[0]));
        psymm.custodyToCustody(call);
    }

    function test_oneNoteTwiceInAMoveIsRefused() public {
        IPSymm.CtcCall memory call = looseCtc(true);
        call.nullifiers[1] = call.nullifiers[0];
        vm.expectRevert(abi.encodeWithSelector(IPSymm.NullifierAlreadySpent.selector, call.nullifiers[0]));
        psymm.custodyToCustody(call);
    }

    function test_anOldRootCountsForEver() public {
        IPSymm.CtcCall memory call;
        bool found = false;
        for (uint256 i = 0; i < loose.length && !found; ++i) {
            if (loose[i].kind != Kind.Ctc) continue;
            call = asCtc(loose[i]);
            found = call.root != psymm.root();
        }
        vm.assertTrue(found, "the pool has a CTC under an older root");
        psymm.custodyToCustody(call);
    }

    function test_aRootThatTheTreeNeverHadIsRefused() public {
        IPSymm.CtcCall memory call = looseCtc(true);
        call.root += 1;
        vm.expectRevert(abi.encodeWithSelector(IPSymm.RootUnknown.selector, call.root));
        psymm.custodyToCustody(call);
        call.root = 0;
        vm.expectRevert(abi.encodeWithSelector(IPSymm.RootUnknown.selector, 0));
        psymm.custodyToCustody(call);
    }

    function test_theDeadlineIsTheLastMoment() public {
        IPSymm.CtcCall memory call = looseCtc(true);
        vm.warp(call.deadline + 1);
        vm.expectRevert(
            abi.encodeWithSelector(IPSymm.DeadlinePassed.selector, call.deadline, call.deadline + 1)
        );
        psymm.custodyToCustody(call);
        IPSymm.CtaCall memory cta = looseCta(true);
        vm.warp(cta.deadline + 1);
        vm.expectRevert(
            abi.encodeWithSelector(IPSymm.DeadlinePassed.selector, cta.deadline, cta.deadline + 1)
        );
        psymm.custodyToAddress(cta);
        vm.warp(call.deadline);
        psymm.custodyToCustody(call);
    }

    function test_everyPublicInputOfACtcIsBelowTheModulus() public {
        for (uint256 i = 0; i < 5; ++i) {
            IPSymm.CtcCall memory call = looseCtc(true);
            uint256 value;
            if (i == 0) value = call.root += FIELD;
            if (i == 1) value = call.nullifiers[0] += FIELD;
            if (i == 2) value = call.nullifiers[1] += FIELD;
            if (i == 3) value = call.commitments[0] += FIELD;
            if (i == 4) value = call.commitments[1] += FIELD;
            vm.expectRevert(abi.encodeWithSelector(IPSymm.NotInField.selector, value));
            psymm.custodyToCustody(call);
        }
    }

    function test_everyPublicInputOfACtaIsBelowTheModulus() public {
        for (uint256 i = 0; i < 4; ++i) {
            IPSymm.CtaCall memory call = looseCta(true);
            uint256 value;
            if (i == 0) value = call.root += FIELD;
            if (i == 1) value = call.nullifiers[0] += FIELD;
            if (i == 2) value = call.nullifiers[1] += FIELD;
            if (i == 3) value = call.change += FIELD;
            vm.expectRevert(abi.encodeWithSelector(IPSymm.NotInField.selector, value));
            psymm.custodyToAddress(call);
        }
    }

    function test_aCommitmentOfZeroIsRefused() public {
        for (uint256 i = 0; i < 2; ++i) {
            IPSymm.CtcCall memory call = looseCtc(true);
            call.commitments[i] = 0;
            vm.expectRevert(IPSymm.CommitmentZero.selector);
            psymm.custodyToCustody(call);
        }
        IPSymm.CtaCall memory cta = looseCta(true);
        cta.change = 0;
        vm.expectRevert(IPSymm.CommitmentZero.selector);
        psymm.custodyToAddress(cta);
    }

    function test_aKnownCommitmentIsRefused() public {
        uint256 known = notes[0].commitment;
        IPSymm.CtcCall memory call = looseCtc(true);
        call.commitments[1] = known;
        vm.expectRevert(abi.encodeWithSelector(IPSymm.CommitmentKnown.selector, known));
        psymm.custodyToCustody(call);
        call = looseCtc(true);
        call.commitments[1] = call.commitments[0];
        vm.expectRevert(abi.encodeWithSelector(IPSymm.CommitmentKnown.selector, call.commitments[0]));
        psymm.custodyToCustody(call);
        IPSymm.CtaCall memory cta = looseCta(true);
        cta.change = known;
        vm.expectRevert(abi.encodeWithSelector(IPSymm.CommitmentKnown.selector, known));
        psymm.custodyToAddress(cta);
    }

    function test_relayerFeeAndTokenOfACtcComeTogether() public {
        for (uint256 i = 0; i < 3; ++i) {
            IPSymm.CtcCall memory call = looseCtc(true);
            if (i == 0) call.relayer = address(0);
            if (i == 1) call.feeToken = address(0);
            if (i == 2) call.fee = 0;
            vm.expectRevert(
                abi.encodeWithSelector(IPSymm.FeeIncomplete.selector, call.relayer, call.feeToken, call.fee)
            );
            psymm.custodyToCustody(call);
            call = looseCtc(false);
            if (i == 0) call.relayer = SENDER;
            if (i == 1) call.feeToken = address(tokenA);
            if (i == 2) call.fee = 1;
            vm.expectRevert(
                abi.encodeWithSelector(IPSymm.FeeIncomplete.selector, call.relayer, call.feeToken, call.fee)
            );
            psymm.custodyToCustody(call);
        }
    }

    function test_aFeeOf2To128IsRefused() public {
        IPSymm.CtcCall memory call = looseCtc(true);
        call.fee = 1 << 128;
        vm.expectRevert(abi.encodeWithSelector(IPSymm.AmountTooLarge.selector, 1 << 128));
        psymm.custodyToCustody(call);
    }

    function test_memosOfACtcAre256BytesEach() public {
        IPSymm.CtcCall memory call = looseCtc(true);
        bytes memory both = bytes.concat(call.memo0, call.memo1);
        (call.memo0, call.memo1) = (both, "");
        vm.expectRevert(abi.encodeWithSelector(IPSymm.MemoLength.selector, 512));
        psymm.custodyToCustody(call);
        (call.memo0, call.memo1) = (memo256(), new bytes(257));
        vm.expectRevert(abi.encodeWithSelector(IPSymm.MemoLength.selector, 257));
        psymm.custodyToCustody(call);
    }

    function test_noFeeGoesWhereNobodyCouldUseIt() public {
        address[2] memory payees = [portal, address(psymm)];
        for (uint256 i = 0; i < payees.length; ++i) {
            IPSymm.CtcCall memory call = looseCtc(true);
            call.relayer = payees[i];
            vm.expectRevert(abi.encodeWithSelector(IPSymm.PayeeForbidden.selector, payees[i]));
            psymm.custodyToCustody(call);
            IPSymm.CtaCall memory cta = looseCta(true);
            cta.relayer = payees[i];
            vm.expectRevert(abi.encodeWithSelector(IPSymm.PayeeForbidden.selector, payees[i]));
            psymm.custodyToAddress(cta);
        }
    }

    /* CTA */

    function test_aCtaPaysRecipientAndRelayerWhoeverSends() public {
        IPSymm.CtaCall memory call = looseCta(true);
        uint256 held = balance(call.token, portal);
        uint256 relayerHeld = balance(call.token, call.relayer);
        uint256 size = psymm.size();
        vm.expectEmit(address(psymm));
        emit IPSymm.NoteInserted(size, call.change, call.memo);
        vm.expectEmit(address(psymm));
        emit IPSymm.Withdrawn(call.token, call.recipient, call.amount, call.relayer, call.fee);
        vm.prank(SENDER);
        psymm.custodyToAddress(call);
        vm.assertEq(balance(call.token, call.recipient), call.amount - call.fee, "the recipient's part");
        vm.assertEq(balance(call.token, call.relayer) - relayerHeld, call.fee, "the relayer's fee");
        vm.assertEq(held - balance(call.token, portal), call.amount, "what left");
        vm.assertEq(psymm.size(), size + 1, "the change");
    }

    function test_aCtaWithoutARelayerPaysAllToTheRecipient() public {
        IPSymm.CtaCall memory call = looseCta(false);
        psymm.custodyToAddress(call);
        vm.assertEq(balance(call.token, call.recipient), call.amount, "all of it");
    }

    function test_aFeeMayBeTheWholeAmount() public {
        IPSymm.CtaCall memory call;
        bool found = false;
        for (uint256 i = 0; i < loose.length && !found; ++i) {
            if (loose[i].kind != Kind.Cta) continue;
            call = asCta(loose[i]);
            found = call.fee == call.amount;
        }
        vm.assertTrue(found, "the pool has such a CTA");
        uint256 held = balance(call.token, call.relayer);
        psymm.custodyToAddress(call);
        vm.assertEq(balance(call.token, call.relayer) - held, call.amount, "the relayer has it all");
        vm.assertEq(balance(call.token, call.recipient), 0, "the recipient nothing");
    }

    function test_aWithdrawalOfNothingIsRefused() public {
        IPSymm.CtaCall memory call = looseCta(false);
        call.amount = 0;
        vm.expectRevert(IPSymm.AmountZero.selector);
        psymm.custodyToAddress(call);
    }

    function test_aWithdrawalOf2To128IsRefused() public {
        IPSymm.CtaCall memory call = looseCta(false);
        call.amount = 1 << 128;
        vm.expectRevert(abi.encodeWithSelector(IPSymm.AmountTooLarge.selector, 1 << 128));
        psymm.custodyToAddress(call);
    }

    function test_aFeeAboveTheAmountIsRefused() public {
        IPSymm.CtaCall memory call = looseCta(true);
        call.fee = call.amount + 1;
        vm.expectRevert(abi.encodeWithSelector(IPSymm.FeeAboveAmount.selector, call.fee, call.amount));
        psymm.custodyToAddress(call);
    }

    function test_relayerAndFeeOfACtaComeTogether() public {
        IPSymm.CtaCall memory call = looseCta(true);
        call.relayer = address(0);
        vm.expectRevert(
            abi.encodeWithSelector(IPSymm.FeeIncomplete.selector, address(0), call.token, call.fee)
        );
        psymm.custodyToAddress(call);
        call = looseCta(false);
        call.relayer = SENDER;
        vm.expectRevert(abi.encodeWithSelector(IPSymm.FeeIncomplete.selector, SENDER, call.token, 0));
        psymm.custodyToAddress(call);
    }

    function test_nothingIsPaidToZeroThePortalOrPSymm() public {
        address[3] memory payees = [address(0), portal, address(psymm)];
        for (uint256 i = 0; i < payees.length; ++i) {
            IPSymm.CtaCall memory call = looseCta(true);
            call.recipient = payees[i];
            vm.expectRevert(abi.encodeWithSelector(IPSymm.PayeeForbidden.selector, payees[i]));
            psymm.custodyToAddress(call);
        }
    }

    function test_theMemoOfACtaIs256Bytes() public {
        IPSymm.CtaCall memory call = looseCta(true);
        call.memo = new bytes(0);
        vm.expectRevert(abi.encodeWithSelector(IPSymm.MemoLength.selector, 0));
        psymm.custodyToAddress(call);
    }

    /* PROOFS */

    /// @dev Every loose move of the pool holds by itself, on the state after the prefix.
    function test_everyProofOfThePoolHolds() public {
        uint256 empty = vm.snapshotState();
        for (uint256 i = 0; i < loose.length; ++i) {
            play(loose[i]);
            vm.revertToState(empty);
        }
        for (uint256 i = 0; i < chain.length; ++i) {
            play(chain[i]);
        }
        vm.assertLe(50, loose.length + chain.length + hostile.length, "at least 50 proofs beside the prefix");
    }

    function testFuzz_aProofWithAnyByteChangedIsRefused(uint256 which, uint256 at, uint8 by) public {
        Entry memory entry = loose[which % loose.length];
        vm.assume(by != 0);
        if (entry.kind == Kind.Ctc) {
            IPSymm.CtcCall memory call = asCtc(entry);
            at %= call.proof.length;
            call.proof[at] ^= bytes1(by);
            vm.expectRevert(IPSymm.ProofInvalid.selector);
            psymm.custodyToCustody(call);
        } else {
            IPSymm.CtaCall memory call = asCta(entry);
            at %= call.proof.length;
            call.proof[at] ^= bytes1(by);
            vm.expectRevert(IPSymm.ProofInvalid.selector);
            psymm.custodyToAddress(call);
        }
    }

    /// @dev A proof has one form: no word of it may stand for itself plus the field's modulus.
    function testFuzz_aProofWithAWordAboveTheModulusIsRefused(uint256 which, uint256 at) public {
        IPSymm.CtcCall memory call = looseCtc(which % 2 == 0);
        bytes memory proof = call.proof;
        at = 32 * (at % (proof.length / 32)) + 32;
        uint256 value;
        assembly {
            value := mload(add(proof, at))
        }
        vm.assume(value < FIELD);
        value += FIELD;
        assembly {
            mstore(add(proof, at), value)
        }
        vm.expectRevert(IPSymm.ProofInvalid.selector);
        psymm.custodyToCustody(call);
    }

    function testFuzz_aProofOfAnotherLengthIsRefused(uint256 length) public {
        IPSymm.CtcCall memory call = looseCtc(true);
        length %= call.proof.length + 64;
        vm.assume(length != call.proof.length);
        bytes memory proof = new bytes(length);
        for (uint256 i = 0; i < length && i < call.proof.length; ++i) {
            proof[i] = call.proof[i];
        }
        call.proof = proof;
        vm.expectRevert(IPSymm.ProofInvalid.selector);
        psymm.custodyToCustody(call);
    }

    function test_aProofOfTheOtherCircuitIsRefused() public {
        IPSymm.CtcCall memory ctc = looseCtc(true);
        IPSymm.CtaCall memory cta = looseCta(true);
        (ctc.proof, cta.proof) = (cta.proof, ctc.proof);
        vm.expectRevert(IPSymm.ProofInvalid.selector);
        psymm.custodyToCustody(ctc);
        vm.expectRevert(IPSymm.ProofInvalid.selector);
        psymm.custodyToAddress(cta);
    }

    /// @dev Whatever both keys signed and whatever the proof shows: swapped for something as plausible.
    function testFuzz_aCtcWithAnyPublicValueChangedIsRefused(uint256 which, uint256 what, uint256 by) public {
        IPSymm.CtcCall memory call = looseCtc(which % 2 == 0);
        uint256 other = bound(by, 1, FIELD - 1);
        what %= 10;
        if (what == 0) call.root = otherRoot(call.root);
        if (what == 1) call.nullifiers[0] = other;
        if (what == 2) call.nullifiers[1] = other;
        if (what == 3) call.commitments[0] = other;
        if (what == 4) call.commitments[1] = other;
        if (what == 5) (call.relayer, call.feeToken, call.fee) = otherFee(call, by);
        if (what == 6) call.deadline += 1 + (by % 1e6);
        if (what == 7) call.memo0[by % 256] ^= 0x01;
        if (what == 8) call.memo1[by % 256] ^= 0x80;
        if (what == 9) {
            (call.commitments[0], call.commitments[1]) = (call.commitments[1], call.commitments[0]);
        }
        vm.expectRevert(IPSymm.ProofInvalid.selector);
        psymm.custodyToCustody(call);
    }

    function testFuzz_aCtaWithAnyPublicValueChangedIsRefused(uint256 which, uint256 what, uint256 by) public {
        IPSymm.CtaCall memory call = looseCta(which % 2 == 0);
        uint256 other = bound(by, 1, FIELD - 1);
        what %= 10;
        if (what == 0) call.root = otherRoot(call.root);
        if (what == 1) call.nullifiers[0] = other;
        if (what == 2) call.nullifiers[1] = other;
        if (what == 3) call.change = other;
        if (what == 4) call.token = call.token == address(tokenA) ? address(tokenB) : address(tokenA);
        if (what == 5) call.amount += 1 + (by % 1e6);
        if (what == 6) call.recipient = SENDER;
        if (what == 7) call.deadline += 1 + (by % 1e6);
        if (what == 8) call.memo[by % 256] ^= 0x01;
        if (what == 9) {
            call.relayer = SENDER;
            call.fee = 1 + (by % call.amount);
        }
        vm.expectRevert(IPSymm.ProofInvalid.selector);
        psymm.custodyToAddress(call);
    }

    function otherRoot(uint256 than) private returns (uint256 root) {
        root = psymm.root();
        if (root != than) return root;
        deposit(address(tokenA), 1, 4242, memo256());
        return psymm.root();
    }

    function otherFee(IPSymm.CtcCall memory call, uint256 by)
        private
        view
        returns (address, address, uint256)
    {
        if (call.fee == 0) {
            return (SENDER, address(tokenA), 1 + (by % 1e6));
        }
        if (by % 4 == 0) return (SENDER, call.feeToken, call.fee);
        if (by % 4 == 1) return (call.relayer, call.feeToken, call.fee + 1);
        if (by % 4 == 2) return (call.relayer, SENDER, call.fee);
        return (address(0), address(0), 0);
    }

    /* CHAINS AND REFERENCE STRINGS */

    function test_theDevelopmentStringWorksOnChain31337Alone() public {
        // The same tests run on a build for Ignition, which is good on every chain.
        vm.skip(keccak256(bytes(psymm.referenceString())) == keccak256("ignition"));
        bytes memory byVerifier = abi.encodeWithSignature("DevelopmentReferenceString(uint256)", 1);
        IPSymm.CtcCall memory ctc = looseCtc(true);
        IPSymm.CtaCall memory cta = looseCta(true);
        vm.chainId(1);
        vm.expectRevert(abi.encodeWithSelector(IPSymm.DevReferenceString.selector, 1));
        psymm.custodyToCustody(ctc);
        vm.expectRevert(abi.encodeWithSelector(IPSymm.DevReferenceString.selector, 1));
        psymm.custodyToAddress(cta);
        vm.expectRevert(abi.encodeWithSelector(IPSymm.DevReferenceString.selector, 1));
        new PSymm(ctcVerifier, ctaVerifier);
        vm.expectRevert(byVerifier);
        new CtcVerifier();
        vm.expectRevert(byVerifier);
        ctcVerifier.verify(ctc.proof, new bytes32[](9));
        vm.chainId(31_337);
        psymm.custodyToCustody(ctc);
    }

    function test_ignitionsStringWorksAnywhere() public {
        vm.chainId(1);
        IVerifier verifier = IVerifier(address(new RefusingVerifier("ignition")));
        PSymm elsewhere = new PSymm(verifier, verifier);
        vm.assertEq(elsewhere.referenceString(), "ignition", "as the verifiers say");
        tokenA.mint(address(this), 5);
        tokenA.approve(address(elsewhere.portal()), 5);
        elsewhere.addressToCustody(address(tokenA), 5, 77, memo256());
        IPSymm.CtcCall memory call = looseCtc(true);
        call.root = elsewhere.root();
        vm.expectRevert(IPSymm.ProofInvalid.selector);
        elsewhere.custodyToCustody(call);
    }

    function test_aStringThatNobodyKnowsCountsAsDevelopment() public {
        IVerifier verifier = IVerifier(address(new RefusingVerifier("another ceremony")));
        new PSymm(verifier, verifier);
        vm.chainId(1);
        vm.expectRevert(abi.encodeWithSelector(IPSymm.DevReferenceString.selector, 1));
        new PSymm(verifier, verifier);
    }

    function test_verifiersOfTwoStringsDoNotMix() public {
        IVerifier other = IVerifier(address(new RefusingVerifier("another ceremony")));
        string memory ours = psymm.referenceString();
        vm.expectRevert(
            abi.encodeWithSelector(IPSymm.ReferenceStringsDiffer.selector, ours, "another ceremony")
        );
        new PSymm(ctcVerifier, other);
        vm.expectRevert(
            abi.encodeWithSelector(IPSymm.ReferenceStringsDiffer.selector, "another ceremony", ours)
        );
        new PSymm(other, ctaVerifier);
    }

    function test_anAddressWithoutCodeIsNoVerifier() public {
        vm.expectRevert(abi.encodeWithSelector(IPSymm.VerifierHasNoCode.selector, SENDER));
        new PSymm(IVerifier(SENDER), ctaVerifier);
        vm.expectRevert(abi.encodeWithSelector(IPSymm.VerifierHasNoCode.selector, SENDER));
        new PSymm(ctcVerifier, IVerifier(SENDER));
    }

    function test_aForkHasAnotherDomain() public {
        bytes32 here = psymm.domainSeparator();
        vm.chainId(5);
        vm.assertNotEq(psymm.domainSeparator(), here, "signatures of one chain do not count on another");
        vm.chainId(31_337);
        vm.assertEq(psymm.domainSeparator(), here, "and back");
    }

    function balance(address token, address account) private view returns (uint256) {
        return token == address(tokenA) ? tokenA.balanceOf(account) : tokenB.balanceOf(account);
    }
}
