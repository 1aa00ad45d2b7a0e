// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {Poseidon2} from "../src/Poseidon2.sol";
import {IToken, TokenPortal} from "../src/TokenPortal.sol";
import {IPSymm} from "../src/interfaces/IPSymm.sol";
import {ITokenPortal} from "../src/interfaces/ITokenPortal.sol";
import {TestToken} from "../src/test-support/TestToken.sol";
import {HostileToken, Mood} from "./HostileTokens.sol";
import {World} from "./World.sol";

/// @dev The portal: permits, and tokens that misbehave. Each of them harms only itself: what it does
/// reverts as a whole, other tokens' moves go on, and once it behaves again its own notes are there.
contract TokensTest is World {
    uint256 private constant OWNER_KEY = 0xa11ce;
    bytes4 private constant IN = IToken.transferFrom.selector;
    bytes4 private constant OUT = IToken.transfer.selector;

    /* WHO MAY */

    function test_onlyPSymmMovesTheTokens() public {
        ITokenPortal its = ITokenPortal(portal);
        vm.assertEq(its.psymm(), address(psymm), "bound to the PSymm that made it");
        vm.expectRevert(abi.encodeWithSelector(ITokenPortal.NotPSymm.selector, address(this)));
        its.collect(DEPOSITOR, address(tokenA), 1);
        vm.expectRevert(abi.encodeWithSelector(ITokenPortal.NotPSymm.selector, address(this)));
        its.pay(address(tokenA), address(this), 1);
        vm.expectRevert(abi.encodeWithSelector(ITokenPortal.NotPSymm.selector, address(this)));
        its.permit(DEPOSITOR, address(tokenA), 1, 1, 27, 0, 0);
    }

    /// @dev An allowance for the portal is for its owner's own deposits.
    function test_nobodyDepositsWithAnothersAllowance() public {
        tokenA.mint(DEPOSITOR, 100);
        bytes memory reason =
            abi.encodeWithSelector(TestToken.AllowanceTooLow.selector, address(this), portal, 0, 100);
        vm.expectRevert(
            abi.encodeWithSelector(ITokenPortal.TokenRefused.selector, address(tokenA), IN, reason)
        );
        psymm.addressToCustody(address(tokenA), 100, 77, memo256());
    }

    function test_anAddressWithoutCodeIsNoToken() public {
        vm.expectRevert(abi.encodeWithSelector(ITokenPortal.TokenHasNoCode.selector, address(0xeee)));
        psymm.addressToCustody(address(0xeee), 1, 77, memo256());
        vm.expectRevert(abi.encodeWithSelector(ITokenPortal.TokenHasNoCode.selector, address(0)));
        psymm.addressToCustody(address(0), 1, 77, memo256());
        vm.expectRevert(abi.encodeWithSelector(ITokenPortal.TokenHasNoCode.selector, address(0xeee)));
        psymm.addressToCustodyWithPermit(address(0xeee), 1, 77, memo256(), 1, 27, 0, 0);
    }

    function test_aContractThatIsNoTokenIsRefused() public {
        vm.expectRevert(
            abi.encodeWithSelector(
                ITokenPortal.TokenRefused.selector, address(psymm), IToken.balanceOf.selector, ""
            )
        );
        psymm.addressToCustody(address(psymm), 1, 77, memo256());
    }

    /* PERMITS */

    function permitOf(uint256 amount) private returns (address owner, uint8 v, bytes32 r, bytes32 s) {
        owner = vm.addr(OWNER_KEY);
        tokenA.mint(owner, amount);
        bytes32 hash = keccak256(
            abi.encode(
                keccak256(
                    "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
                ),
                owner,
                portal,
                amount,
                tokenA.nonces(owner),
                START
            )
        );
        (v, r, s) =
            vm.sign(OWNER_KEY, keccak256(abi.encodePacked(hex"1901", tokenA.DOMAIN_SEPARATOR(), hash)));
    }

    function test_aPermitStandsForAnApproval() public {
        (address owner, uint8 v, bytes32 r, bytes32 s) = permitOf(900);
        vm.prank(owner);
        uint256 commitment =
            psymm.addressToCustodyWithPermit(address(tokenA), 900, 77, memo256(), START, v, r, s);
        vm.assertEq(
            commitment, Poseidon2.hash3(77, uint256(uint160(address(tokenA))), 900), "as without a permit"
        );
        vm.assertEq(tokenA.balanceOf(owner), 0, "paid");
    }

    function test_aPermitUsedByAnotherBeforeDoesNoHarm() public {
        (address owner, uint8 v, bytes32 r, bytes32 s) = permitOf(900);
        tokenA.permit(owner, portal, 900, START, v, r, s);
        vm.prank(owner);
        psymm.addressToCustodyWithPermit(address(tokenA), 900, 77, memo256(), START, v, r, s);
        vm.assertEq(tokenA.balanceOf(owner), 0, "paid all the same");
    }

    function test_aPermitThatFailsWithTooSmallAnAllowanceIsNamed() public {
        (address owner, uint8 v, bytes32 r, bytes32 s) = permitOf(900);
        vm.prank(owner);
        tokenA.approve(portal, 900);
        vm.expectRevert(
            abi.encodeWithSelector(ITokenPortal.PermitFailed.selector, address(tokenA), owner, 900, 901)
        );
        vm.prank(owner);
        psymm.addressToCustodyWithPermit(address(tokenA), 901, 77, memo256(), START, v, r, s);
    }

    function test_aPermitIsForItsOwnersDepositAlone() public {
        (, uint8 v, bytes32 r, bytes32 s) = permitOf(900);
        vm.expectRevert(
            abi.encodeWithSelector(ITokenPortal.PermitFailed.selector, address(tokenA), address(this), 0, 900)
        );
        psymm.addressToCustodyWithPermit(address(tokenA), 900, 77, memo256(), START, v, r, s);
    }

    /* HOSTILE ON THE WAY IN */

    function expectDepositRefused(Mood mood, bytes memory why) private {
        uint256 before = vm.snapshotState();
        hostileToken.mint(DEPOSITOR, 1000);
        hostileToken.turn(mood);
        uint256 size = psymm.size();
        vm.prank(DEPOSITOR);
        (bool done, bytes memory data) = address(psymm).call{gas: 3_000_000}(
            abi.encodeCall(IPSymm.addressToCustody, (address(hostileToken), 1000, 77, memo256()))
        );
        vm.assertFalse(done, "refused");
        vm.assertEq(data, why, "with this reason");
        vm.assertEq(psymm.size(), size, "no note");
        deposit(address(tokenA), 5, 78, memo256());
        vm.revertToState(before);
    }

    function refused(bytes4 selector, bytes memory reason) private view returns (bytes memory) {
        return
            abi.encodeWithSelector(
                ITokenPortal.TokenRefused.selector, address(hostileToken), selector, reason
            );
    }

    function movedOther(uint256 amount, uint256 before, uint256 later) private view returns (bytes memory) {
        return abi.encodeWithSelector(
            ITokenPortal.TokenMovedOtherAmount.selector, address(hostileToken), amount, before, later
        );
    }

    function test_noHostileTokenGetsANote() public {
        uint256 held = hostileToken.held(portal);
        bytes4 balance = IToken.balanceOf.selector;
        expectDepositRefused(Mood.Reverts, refused(IN, abi.encodeWithSignature("Error(string)", "not today")));
        expectDepositRefused(Mood.ReturnsFalse, refused(IN, abi.encode(false)));
        expectDepositRefused(Mood.ReturnsTwo, refused(IN, abi.encode(2)));
        expectDepositRefused(Mood.ReturnsOneByte, refused(IN, hex"01"));
        expectDepositRefused(Mood.ReturnBomb, refused(IN, new bytes(256)));
        expectDepositRefused(Mood.RevertBomb, refused(IN, new bytes(256)));
        expectDepositRefused(Mood.TakesFee, movedOther(1000, held, held + 990));
        expectDepositRefused(Mood.GivesMore, movedOther(1000, held, held + 1001));
        expectDepositRefused(Mood.MovesNothing, movedOther(1000, held, held));
        expectDepositRefused(
            Mood.BalanceReverts,
            refused(balance, abi.encodeWithSignature("Error(string)", "no balance today"))
        );
        expectDepositRefused(Mood.BalanceShort, refused(balance, new bytes(31)));
        uint256 huge = type(uint256).max - uint256(uint160(portal)) % 7 - held;
        expectDepositRefused(Mood.BalanceHuge, movedOther(1000, huge, huge - 1000));
    }

    function test_aBalanceBombCostsLittle() public {
        hostileToken.mint(DEPOSITOR, 1000);
        hostileToken.turn(Mood.BalanceBomb);
        // Half a megabyte of zeros is a balance of zero, before and after.
        vm.expectRevert(movedOther(1000, 0, 0));
        vm.prank(DEPOSITOR);
        psymm.addressToCustody(address(hostileToken), 1000, 77, memo256());
    }

    function test_aTokenThatReturnsNothingIsTaken() public {
        hostileToken.turn(Mood.ReturnsNothing);
        deposit(address(hostileToken), 1000, 77, memo256());
    }

    /* HOSTILE ON THE WAY OUT, with real proofs */

    function expectCtaRefused(Mood mood, bytes memory why) private {
        uint256 before = vm.snapshotState();
        IPSymm.CtaCall memory call = asCta(hostile[0]);
        hostileToken.turn(mood);
        vm.expectRevert(why);
        psymm.custodyToAddress(call);
        vm.assertFalse(psymm.isSpent(call.nullifiers[0]), "the note is not spent");

        // Another token's payee is not held up.
        psymm.custodyToAddress(looseCta(true));
        // And once it behaves, its own withdrawal is as good as before.
        hostileToken.turn(Mood.Plain);
        psymm.custodyToAddress(call);
        vm.assertEq(hostileToken.held(call.recipient), call.amount - call.fee, "paid in the end");
        vm.revertToState(before);
    }

    function test_aHostileTokenSpoilsOnlyItsOwnWithdrawals() public {
        uint256 held = hostileToken.held(portal);
        uint256 amount = asCta(hostile[0]).amount;
        expectCtaRefused(Mood.Reverts, refused(OUT, abi.encodeWithSignature("Error(string)", "not today")));
        expectCtaRefused(Mood.ReturnsFalse, refused(OUT, abi.encode(false)));
        expectCtaRefused(Mood.ReturnsTwo, refused(OUT, abi.encode(2)));
        expectCtaRefused(Mood.ReturnBomb, refused(OUT, new bytes(256)));
        expectCtaRefused(Mood.RevertBomb, refused(OUT, new bytes(256)));
        expectCtaRefused(Mood.MovesMore, movedOther(amount, held, held - amount - 1));
        expectCtaRefused(Mood.MovesNothing, movedOther(amount, held, held));
        expectCtaRefused(Mood.BalanceShort, refused(IToken.balanceOf.selector, new bytes(31)));
    }

    /// @dev A fee taken from the payee's side is the payee's loss; the portal pays what it owes.
    function test_aTokenThatTakesAFeeFromThePayeeLeavesThePortalWhole() public {
        IPSymm.CtaCall memory call = asCta(hostile[0]);
        uint256 held = hostileToken.held(portal);
        hostileToken.turn(Mood.TakesFee);
        psymm.custodyToAddress(call);
        vm.assertEq(hostileToken.held(portal), held - call.amount, "by exactly the amount");
    }

    /* REENTRANT */

    function expectReenteredBarred(bytes memory data) private {
        uint256 before = vm.snapshotState();
        hostileToken.aim(address(psymm), data);
        hostileToken.turn(Mood.Reenters);
        psymm.custodyToAddress(asCta(hostile[0]));
        vm.assertFalse(hostileToken.reentered(), "the call from inside failed");
        vm.assertEq(hostileToken.answer(), abi.encodeWithSelector(IPSymm.Reentered.selector), "and says why");
        vm.revertToState(before);
    }

    function test_noMoveIsMadeFromInsideAnother() public {
        expectReenteredBarred(abi.encodeCall(IPSymm.custodyToAddress, (asCta(hostile[0]))));
        expectReenteredBarred(abi.encodeCall(IPSymm.custodyToAddress, (asCta(hostile[1]))));
        expectReenteredBarred(abi.encodeCall(IPSymm.custodyToCustody, (looseCtc(true))));
        expectReenteredBarred(
            abi.encodeCall(IPSymm.addressToCustody, (address(hostileToken), 1, 77, memo256()))
        );
        expectReenteredBarred(
            abi.encodeCall(
                IPSymm.addressToCustodyWithPermit,
                (address(hostileToken), 1, 77, memo256(), START, 27, bytes32(0), bytes32(0))
            )
        );
    }

    /// @dev Who looks in from inside a payment sees the move done, not half of it.
    function test_viewsFromInsideSeeTheMoveDone() public {
        IPSymm.CtaCall memory call = asCta(hostile[0]);
        hostileToken.aim(address(psymm), abi.encodeCall(IPSymm.isSpent, (call.nullifiers[0])));
        hostileToken.turn(Mood.Reenters);
        psymm.custodyToAddress(call);
        vm.assertTrue(hostileToken.reentered(), "a view may be called");
        vm.assertEq(hostileToken.answer(), abi.encode(true), "the note is spent already");
    }

    function test_thePortalCannotBeReenteredPastPSymm() public {
        hostileToken.aim(portal, abi.encodeCall(ITokenPortal.pay, (address(tokenA), address(this), 1)));
        hostileToken.turn(Mood.Reenters);
        psymm.custodyToAddress(asCta(hostile[0]));
        vm.assertFalse(hostileToken.reentered(), "the portal knows PSymm alone");
    }

    function test_theGuardOpensAgain() public {
        psymm.custodyToAddress(asCta(hostile[0]));
        psymm.custodyToAddress(asCta(hostile[1]));
    }

    /* TEST TOKEN */

    function test_theTestTokenIsAnErc20WithSixDecimals() public {
        vm.assertEq(tokenA.decimals(), 6, "as it was made");
        vm.assertEq(tokenA.symbol(), "TUSD", "as it was made");
        tokenA.mint(address(this), 10);
        vm.assertTrue(tokenA.transfer(DEPLOYER, 4), "a transfer says so");
        vm.assertEq(tokenA.balanceOf(DEPLOYER), 4, "moved");
        vm.expectRevert(abi.encodeWithSelector(TestToken.BalanceTooLow.selector, address(this), 6, 7));
        tokenA.transfer(DEPLOYER, 7);
        tokenA.approve(DEPLOYER, 3);
        vm.prank(DEPLOYER);
        tokenA.transferFrom(address(this), DEPLOYER, 3);
        vm.assertEq(tokenA.allowance(address(this), DEPLOYER), 0, "used up");
        vm.expectRevert(abi.encodeWithSelector(TestToken.PermitExpired.selector, START - 1, START));
        tokenA.permit(DEPLOYER, portal, 1, START - 1, 27, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(TestToken.PermitNotSigned.selector, DEPLOYER, address(0)));
        tokenA.permit(DEPLOYER, portal, 1, START, 27, 0, 0);
    }
}
