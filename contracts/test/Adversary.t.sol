// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {PSymm} from "../src/PSymm.sol";
import {PartyRegistry} from "../src/PartyRegistry.sol";
import {IPSymm} from "../src/interfaces/IPSymm.sol";
import {IPartyRegistry} from "../src/interfaces/IPartyRegistry.sol";
import {ITokenPortal} from "../src/interfaces/ITokenPortal.sol";
import {IVerifier} from "../src/interfaces/IVerifier.sol";
import {TestToken} from "../src/test-support/TestToken.sol";
import {CtcVerifier} from "../src/verifiers/CtcVerifier.sol";
import {World} from "./World.sol";

interface TokenHooks {
    function tokensToSend(address to, uint256 amount) external;
    function tokensReceived(address from, uint256 amount) external;
}

/// @dev Like an ERC-777: it calls the sender before a transfer and the recipient after it.
contract HookedToken {
    mapping(address account => uint256) public balanceOf;
    mapping(address owner => mapping(address spender => uint256)) public allowance;

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
    }

    function approve(address spender, uint256 amount) external returns (bool) {
        allowance[msg.sender][spender] = amount;
        return true;
    }

    function transfer(address to, uint256 amount) external returns (bool) {
        return _transfer(msg.sender, to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) external returns (bool) {
        allowance[from][msg.sender] -= amount;
        return _transfer(from, to, amount);
    }

    function _transfer(address from, address to, uint256 amount) private returns (bool) {
        if (from.code.length != 0) try TokenHooks(from).tokensToSend(to, amount) {} catch {}
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
        if (to.code.length != 0) try TokenHooks(to).tokensReceived(from, amount) {} catch {}
        return true;
    }
}

/// @dev A depositor whose token calls it back in the middle of its deposit.
contract HookedDepositor is TokenHooks {
    enum Trick {
        None,
        DepositAgain,
        GiveToPortal
    }

    PSymm private _psymm;
    HookedToken private _token;
    Trick private _trick;

    uint256 public tries;
    bytes4 public answer;

    constructor(PSymm psymm, HookedToken token) {
        (_psymm, _token) = (psymm, token);
        token.approve(address(psymm.portal()), type(uint256).max);
    }

    function deposit(Trick trick, uint256 amount) external {
        _trick = trick;
        _psymm.addressToCustody(address(_token), amount, 4242 + uint256(trick), new bytes(256));
    }

    function tokensToSend(address, uint256) external {
        Trick trick = _trick;
        _trick = Trick.None;
        if (trick == Trick.DepositAgain) {
            ++tries;
            try _psymm.addressToCustody(address(_token), 1, 777, new bytes(256)) {}
            catch (bytes memory why) {
                answer = bytes4(why);
            }
        } else if (trick == Trick.GiveToPortal) {
            ++tries;
            _token.transfer(address(_psymm.portal()), 1);
        }
    }

    function tokensReceived(address, uint256) external {}
}

/// @dev Like WETH: a selector that it does not know succeeds and does nothing, so its permit is a phantom.
contract PhantomPermitToken is TestToken {
    constructor() TestToken("Wrapped ether", "WETH", 18) {}

    fallback() external {}
}

/// @dev What was tried against the contracts with real proofs, each with what came of it.
contract AdversaryTest is World {
    address private constant THIEF = address(0xbad);

    /// @dev Tree takes 34 slots, then isKnownRoot, isSpent and isKnownCommitment.
    uint256 private constant SPENT_SLOT = 35;
    uint256 private constant COMMITMENT_SLOT = 36;

    /* PROOFS IN OTHER CLOTHES */

    /// The verifier alone takes no other name of a public input, so PSymm's own check is a second lock.
    function test_theVerifierTakesNoAliasOfAnyPublicInput() public view {
        IPSymm.CtcCall memory call = looseCtc(true);
        bytes32[] memory inputs = ctcInputs(call);
        vm.assertTrue(ctcVerifier.verify(call.proof, inputs), "the proof itself");
        uint256 tried;
        for (uint256 i = 0; i < inputs.length; ++i) {
            uint256 value = uint256(inputs[i]);
            for (uint256 k = 1; k <= 4 && type(uint256).max - value >= k * FIELD; ++k) {
                inputs[i] = bytes32(value + k * FIELD);
                ++tried;
                try ctcVerifier.verify(call.proof, inputs) returns (bool holds) {
                    vm.assertFalse(holds, "an alias is another input");
                } catch {}
            }
            inputs[i] = bytes32(value);
        }
        vm.assertTrue(tried >= 9 * 4, "every input has aliases");
        vm.assertTrue(ctcVerifier.verify(call.proof, inputs), "the proof itself, still");
    }

    /// A pool with the same verifiers, tokens and even roots takes no proof made for another.
    function test_aTwinPoolTakesNoProofOfTheFirst() public {
        PSymm twin = new PSymm(ctcVerifier, ctaVerifier);
        vm.startPrank(DEPOSITOR);
        tokenA.approve(address(twin.portal()), type(uint256).max);
        tokenB.approve(address(twin.portal()), type(uint256).max);
        hostileToken.approve(address(twin.portal()), type(uint256).max);
        vm.stopPrank();
        for (uint256 i = 0; i < prefix.length && prefix[i].kind == Kind.Atc; ++i) {
            Deposit memory d = asDeposit(prefix[i]);
            TestToken(d.token).mint(DEPOSITOR, d.amount);
            vm.prank(DEPOSITOR);
            twin.addressToCustody(d.token, d.amount, d.inner, d.memo);
        }
        uint256 root = twin.root();
        uint256 tried;
        for (uint256 i = 0; i < loose.length; ++i) {
            if (loose[i].kind == Kind.Ctc) {
                IPSymm.CtcCall memory call = asCtc(loose[i]);
                bool same = twin.isKnownRoot(call.root);
                try twin.custodyToCustody(call) {
                    revert("a twin took a CTC");
                } catch (bytes memory why) {
                    if (same) vm.assertEq(why, bytes.concat(IPSymm.ProofInvalid.selector), "by its proof");
                }
                ++tried;
            } else if (loose[i].kind == Kind.Cta) {
                try twin.custodyToAddress(asCta(loose[i])) {
                    revert("a twin took a CTA");
                } catch {
                    ++tried;
                }
            }
        }
        vm.assertTrue(tried != 0, "there were proofs to try");
        vm.assertEq(twin.root(), root, "nothing changed");
    }

    /// With however little gas, a move is made whole or not at all.
    function test_shortGasMakesNoHalfMove() public {
        IPSymm.CtaCall memory call = looseCta(true);
        uint256 passed;
        uint256 failed;
        for (uint256 gasGiven = 100_000; gasGiven < 1_200_000; gasGiven += 50_000) {
            uint256 before = vm.snapshotState();
            (bool ok,) = address(psymm).call{gas: gasGiven}(abi.encodeCall(psymm.custodyToAddress, (call)));
            vm.assertEq(psymm.isSpent(call.nullifiers[0]), ok, "its note");
            vm.assertEq(psymm.isKnownCommitment(call.change), ok, "its change");
            if (ok) ++passed;
            else ++failed;
            vm.revertToState(before);
        }
        vm.assertTrue(passed != 0 && failed != 0, "both were seen");
    }

    /* TOKENS */

    function test_hooksOfSenderAndRecipientGainNothing() public {
        HookedToken token = new HookedToken();
        HookedDepositor depositor = new HookedDepositor(psymm, token);
        token.mint(address(depositor), 1000);
        uint256 size = psymm.size();

        depositor.deposit(HookedDepositor.Trick.DepositAgain, 100);
        vm.assertEq(depositor.tries(), 1, "it tried");
        vm.assertTrue(depositor.answer() == IPSymm.Reentered.selector, "and was refused");
        vm.assertEq(psymm.size(), size + 1, "one note");
        vm.assertEq(token.balanceOf(portal), 100, "its tokens");

        vm.expectPartialRevert(ITokenPortal.TokenMovedOtherAmount.selector);
        depositor.deposit(HookedDepositor.Trick.GiveToPortal, 100);
        vm.assertEq(psymm.size(), size + 1, "no second note");
        vm.assertEq(token.balanceOf(portal), 100, "nothing changed");
    }

    function test_aTokenThatLosesItsCodeKeepsTheNote() public {
        IPSymm.CtaCall memory call = looseCta(true);
        bytes memory code = call.token.code;
        vm.etch(call.token, "");
        vm.expectRevert(abi.encodeWithSelector(ITokenPortal.TokenHasNoCode.selector, call.token));
        psymm.custodyToAddress(call);
        vm.assertFalse(psymm.isSpent(call.nullifiers[0]), "not spent");
        vm.expectRevert(abi.encodeWithSelector(ITokenPortal.TokenHasNoCode.selector, call.token));
        psymm.addressToCustody(call.token, 1, 5, memo256());

        vm.etch(call.token, code);
        psymm.custodyToAddress(call);
        vm.assertTrue(psymm.isSpent(call.nullifiers[0]), "spent once it is there again");
    }

    /// A permit that does nothing, and somebody else's standing allowance.
    function test_aPhantomPermitTakesNothingOfOthers() public {
        PhantomPermitToken token = new PhantomPermitToken();
        address victim = address(0x71c);
        token.mint(victim, 100);
        vm.prank(victim);
        token.approve(portal, type(uint256).max);
        uint256 size = psymm.size();
        bytes memory data = abi.encodeCall(
            psymm.addressToCustodyWithPermit,
            (
                address(token),
                100,
                99,
                memo256(),
                type(uint256).max,
                27,
                bytes32(uint256(1)),
                bytes32(uint256(1))
            )
        );
        vm.prank(THIEF);
        (bool ok,) = address(psymm).call(data);
        vm.assertFalse(ok, "the thief has nothing to deposit");
        vm.assertEq(token.balanceOf(victim), 100, "untouched");
        vm.assertEq(psymm.size(), size, "no note");
    }

    /* CALLDATA AND THE POOL OF TRANSACTIONS */

    /// High bits above an address give no second call with one digest.
    function test_dirtyAddressesAreRefused() public {
        IPSymm.CtcCall memory call = looseCtc(true);
        bytes memory data = abi.encodeCall(psymm.custodyToCustody, (call));
        // Selector and offset, then root, two nullifiers, two commitments; the relayer is word 5.
        uint256 relayer = 4 + 32 + 5 * 32;
        data[relayer] = 0x01;
        (bool ok,) = address(psymm).call(data);
        vm.assertFalse(ok, "a dirty relayer");
        data[relayer] = 0;
        data[relayer + 32 + 3] = 0x01;
        (ok,) = address(psymm).call(data);
        vm.assertFalse(ok, "a dirty fee token");
        data[relayer + 32 + 3] = 0;
        (ok,) = address(psymm).call(bytes.concat(data, hex"deadbeef"));
        vm.assertTrue(ok, "what stands behind a call means nothing");
    }

    /// Who copies a deposit out of the pool pays it; its owner must find the note without its memo.
    function test_aCopiedDepositGivesTheVictimTheThiefsMoney() public {
        uint256 inner = 31_337;
        tokenA.mint(THIEF, 1000);
        vm.startPrank(THIEF);
        tokenA.approve(portal, type(uint256).max);
        uint256 commitment = psymm.addressToCustody(address(tokenA), 500, inner, memo256());
        vm.stopPrank();
        vm.assertEq(tokenA.balanceOf(THIEF), 500, "the thief paid");

        tokenA.mint(DEPOSITOR, 500);
        uint256 held = tokenA.balanceOf(DEPOSITOR);
        vm.prank(DEPOSITOR);
        vm.expectRevert(abi.encodeWithSelector(IPSymm.CommitmentKnown.selector, commitment));
        psymm.addressToCustody(address(tokenA), 500, inner, memo256());
        vm.assertEq(tokenA.balanceOf(DEPOSITOR), held, "the victim did not");
    }

    /// What a relayer loses whose move was beaten: the refusal comes before the proof is looked at, so
    /// nearly all of it is calldata.
    function test_aMoveThatWasBeatenFailsBeforeItsProof() public {
        IPSymm.CtcCall memory call = looseCtc(true);
        bytes memory data = abi.encodeCall(psymm.custodyToCustody, (call));
        uint256 whole = gasOf(data, true);

        uint256 before = vm.snapshotState();
        markAs(call.commitments[0], COMMITMENT_SLOT);
        vm.assertTrue(psymm.isKnownCommitment(call.commitments[0]), "the slot is right");
        uint256 beaten = gasOf(data, false);
        vm.assertTrue(beaten < whole / 4, "an output that was deposited first");
        vm.revertToState(before);

        markAs(call.nullifiers[1], SPENT_SLOT);
        vm.assertTrue(psymm.isSpent(call.nullifiers[1]), "the slot is right");
        beaten = gasOf(data, false);
        vm.assertTrue(beaten < whole / 4, "a note that was spent first");
        print(
            string.concat(
                "a beaten CTC: execution gas ",
                vm.toString(beaten),
                ", calldata bytes ",
                vm.toString(data.length)
            )
        );
    }

    /* THE REGISTRY */

    /// Between two questions somebody can leave, and another takes the place: pages are read as of one
    /// block (Registry.list in Python), for a reader that does not misses a party that never left.
    function test_aPageReaderNeedsOneBlock() public {
        PartyRegistry registry = new PartyRegistry();
        address[] memory who = new address[](150);
        for (uint256 i = 0; i < 150; ++i) {
            bytes memory key = abi.encodePacked(bytes32(i + 1), bytes32(uint256(7)));
            who[i] = address(uint160(uint256(keccak256(key))));
            vm.prank(who[i]);
            registry.register(IPartyRegistry.Role.Solver, "ws://a:1/", key);
        }
        address victim = who[149];
        uint256 before = vm.snapshotState();
        IPartyRegistry.Party[] memory first = registry.list(IPartyRegistry.Role.Solver, 0, 100);
        vm.prank(who[5]);
        registry.remove(IPartyRegistry.Role.Solver);
        vm.assertTrue(registry.isListed(IPartyRegistry.Role.Solver, victim), "it never left");
        IPartyRegistry.Party[] memory second = registry.list(IPartyRegistry.Role.Solver, 100, 100);
        vm.assertFalse(isAmong(first, victim) || isAmong(second, victim), "yet it is on neither page");
        vm.revertToState(before);
        second = registry.list(IPartyRegistry.Role.Solver, 100, 100);
        vm.assertTrue(isAmong(second, victim), "as of one block it is");
    }

    /// 64 bytes need not be a point of the curve; readers check that (P16 says what holds here).
    function test_aKeyThatIsNoPointIsListedAndIsItsAccounts() public {
        PartyRegistry registry = new PartyRegistry();
        bytes memory key = abi.encodePacked(bytes32(uint256(5)), bytes32(uint256(5)));
        address account = address(uint160(uint256(keccak256(key))));
        vm.prank(THIEF);
        vm.expectPartialRevert(IPartyRegistry.PublicKeyNotOfSender.selector);
        registry.register(IPartyRegistry.Role.Solver, "ws://x:1/", key);
        // Only somebody who breaks keccak can be that sender.
        vm.prank(account);
        registry.register(IPartyRegistry.Role.Solver, "ws://x:1/", key);
        vm.assertTrue(registry.isListed(IPartyRegistry.Role.Solver, account), "listed");
    }

    /* THE DEVELOPMENT STRING */

    /// On another chain, which a fork makes of this one: no move, no deposit by either way, no
    /// construction; and all is as it was once the chain is itself again.
    function test_aDevelopmentPoolTakesNothingOnAnotherChain() public {
        bytes memory refused = abi.encodeWithSelector(IPSymm.DevReferenceString.selector, 1);
        uint256 root = psymm.root();
        tokenA.mint(DEPOSITOR, 5);
        uint256 held = tokenA.balanceOf(DEPOSITOR);
        vm.chainId(1);

        for (uint256 i = 0; i < loose.length; ++i) {
            if (loose[i].kind == Kind.Ctc) {
                try psymm.custodyToCustody(asCtc(loose[i])) {
                    revert("a CTC was taken");
                } catch {}
            } else if (loose[i].kind == Kind.Cta) {
                try psymm.custodyToAddress(asCta(loose[i])) {
                    revert("a CTA was taken");
                } catch {}
            }
        }
        vm.startPrank(DEPOSITOR);
        vm.expectRevert(refused);
        psymm.addressToCustody(address(tokenA), 5, 77, memo256());
        vm.expectRevert(refused);
        psymm.addressToCustodyWithPermit(
            address(tokenA), 5, 77, memo256(), type(uint256).max, 27, bytes32(uint256(1)), bytes32(uint256(1))
        );
        vm.stopPrank();
        vm.expectRevert(refused);
        new PSymm(ctcVerifier, ctaVerifier);
        try new CtcVerifier() returns (CtcVerifier) {
            revert("a verifier was made");
        } catch {}
        vm.assertEq(psymm.root(), root, "nothing changed");
        vm.assertEq(tokenA.balanceOf(DEPOSITOR), held, "no token moved");

        vm.chainId(31_337);
        vm.prank(DEPOSITOR);
        psymm.addressToCustody(address(tokenA), 5, 77, memo256());
        psymm.custodyToCustody(looseCtc(true));
    }

    /* PARTS */

    function ctcInputs(IPSymm.CtcCall memory call) private view returns (bytes32[] memory inputs) {
        bytes32 digest = psymm.ctcDigest(call);
        inputs = new bytes32[](9);
        inputs[0] = bytes32(call.root);
        inputs[1] = bytes32(call.nullifiers[0]);
        inputs[2] = bytes32(call.nullifiers[1]);
        inputs[3] = bytes32(call.commitments[0]);
        inputs[4] = bytes32(call.commitments[1]);
        inputs[5] = bytes32(uint256(uint160(call.feeToken)));
        inputs[6] = bytes32(call.fee);
        inputs[7] = digest >> 128;
        inputs[8] = bytes32(uint256(uint128(uint256(digest))));
    }

    /// @dev The gas that a call to PSymm takes, and whether it succeeds; nothing stays of it.
    function gasOf(bytes memory data, bool succeeds) private returns (uint256 used) {
        uint256 before = vm.snapshotState();
        used = gasleft();
        (bool ok,) = address(psymm).call(data);
        used -= gasleft();
        vm.assertEq(ok, succeeds, "how it ends");
        vm.revertToState(before);
    }

    function markAs(uint256 key, uint256 slot) private {
        vm.store(address(psymm), keccak256(abi.encode(key, slot)), bytes32(uint256(1)));
    }

    function isAmong(IPartyRegistry.Party[] memory page, address account) private pure returns (bool) {
        for (uint256 i = 0; i < page.length; ++i) {
            if (page[i].account == account) return true;
        }
        return false;
    }
}
