// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {PartyRegistry} from "../src/PartyRegistry.sol";
import {IPartyRegistry} from "../src/interfaces/IPartyRegistry.sol";
import {Test} from "./Vm.sol";

/// @dev Where parties find each other.
contract RegistryTest is Test {
    string private constant ENDPOINT = "ws://127.0.0.1:8701/";

    PartyRegistry private registry;
    bytes[] private keys;
    address[] private accounts;

    /// @dev Keys by the curve itself: multiples of its generator, so that they hash to real accounts.
    function setUp() public {
        registry = new PartyRegistry();
        vm.warp(1_800_000_000);
        (uint256 x, uint256 y) = (GX, GY);
        for (uint256 i = 0; i < 8; ++i) {
            keys.push(abi.encodePacked(x, y));
            accounts.push(vm.addr(i + 1));
            (x, y) = i == 0 ? double(x, y) : add(x, y, GX, GY);
        }
    }

    function register(uint256 who, IPartyRegistry.Role role, string memory endpoint) private {
        vm.prank(accounts[who]);
        registry.register(role, endpoint, keys[who]);
    }

    function test_aPartyListsItself() public {
        vm.expectEmit(address(registry));
        emit IPartyRegistry.PartyUpdated(IPartyRegistry.Role.Solver, accounts[0], ENDPOINT, keys[0]);
        register(0, IPartyRegistry.Role.Solver, ENDPOINT);
        IPartyRegistry.Party memory party = registry.get(IPartyRegistry.Role.Solver, accounts[0]);
        vm.assertEq(party.account, accounts[0], "account");
        vm.assertTrue(party.role == IPartyRegistry.Role.Solver, "role");
        vm.assertEq(party.endpoint, ENDPOINT, "endpoint");
        vm.assertEq(party.publicKey, keys[0], "key");
        vm.assertEq(uint256(party.updatedAt), 1_800_000_000, "time");
        vm.assertEq(registry.count(IPartyRegistry.Role.Solver), 1, "one solver");
        vm.assertEq(registry.count(IPartyRegistry.Role.Trader), 0, "no trader");
        vm.assertTrue(registry.isListed(IPartyRegistry.Role.Solver, accounts[0]), "listed");
        vm.assertFalse(registry.isListed(IPartyRegistry.Role.Trader, accounts[0]), "in that role alone");
    }

    function test_registeringAgainReplacesTheListing() public {
        register(0, IPartyRegistry.Role.Solver, ENDPOINT);
        vm.warp(1_800_000_500);
        register(0, IPartyRegistry.Role.Solver, "wss://elsewhere/");
        vm.assertEq(registry.count(IPartyRegistry.Role.Solver), 1, "still one");
        IPartyRegistry.Party memory party = registry.get(IPartyRegistry.Role.Solver, accounts[0]);
        vm.assertEq(party.endpoint, "wss://elsewhere/", "the new endpoint");
        vm.assertEq(uint256(party.updatedAt), 1_800_000_500, "the new time");
    }

    function test_anAccountMayHoldSeveralRoles() public {
        register(0, IPartyRegistry.Role.Solver, ENDPOINT);
        register(0, IPartyRegistry.Role.Relayer, "ws://relayer/");
        vm.prank(accounts[0]);
        registry.remove(IPartyRegistry.Role.Solver);
        vm.assertEq(
            registry.get(IPartyRegistry.Role.Relayer, accounts[0]).endpoint,
            "ws://relayer/",
            "the other stays"
        );
    }

    function test_roleNoneIsNobodys() public {
        vm.expectRevert(IPartyRegistry.RoleNone.selector);
        register(0, IPartyRegistry.Role.None, ENDPOINT);
    }

    function test_theKeyMustBeTheSenders() public {
        vm.prank(accounts[0]);
        vm.expectRevert(
            abi.encodeWithSelector(IPartyRegistry.PublicKeyNotOfSender.selector, accounts[0], accounts[1])
        );
        registry.register(IPartyRegistry.Role.Solver, ENDPOINT, keys[1]);
    }

    function test_aKeyHas64Bytes() public {
        bytes memory with04 = bytes.concat(hex"04", keys[0]);
        vm.prank(accounts[0]);
        vm.expectRevert(abi.encodeWithSelector(IPartyRegistry.PublicKeyLength.selector, 65));
        registry.register(IPartyRegistry.Role.Solver, ENDPOINT, with04);
    }

    function test_anEndpointHasAtMost256PrintableBytes() public {
        bytes memory long = new bytes(257);
        for (uint256 i = 0; i < long.length; ++i) {
            long[i] = "x";
        }
        vm.expectRevert(abi.encodeWithSelector(IPartyRegistry.EndpointTooLong.selector, 257, 256));
        register(0, IPartyRegistry.Role.Solver, string(long));
        assembly {
            mstore(long, 256)
        }
        register(0, IPartyRegistry.Role.Solver, string(long));
        long[255] = 0x20;
        vm.expectRevert(
            abi.encodeWithSelector(IPartyRegistry.EndpointNotPrintable.selector, 255, bytes1(0x20))
        );
        register(0, IPartyRegistry.Role.Solver, string(long));
        vm.expectRevert(abi.encodeWithSelector(IPartyRegistry.EndpointNotPrintable.selector, 0, bytes1(0x1b)));
        register(0, IPartyRegistry.Role.Solver, "\x1b[2J");
        register(0, IPartyRegistry.Role.Trader, "");
    }

    function test_whoIsNotListedIsUnknown() public {
        vm.expectRevert(
            abi.encodeWithSelector(
                IPartyRegistry.PartyUnknown.selector, IPartyRegistry.Role.Solver, accounts[0]
            )
        );
        registry.get(IPartyRegistry.Role.Solver, accounts[0]);
        vm.prank(accounts[0]);
        vm.expectRevert(
            abi.encodeWithSelector(
                IPartyRegistry.PartyUnknown.selector, IPartyRegistry.Role.Solver, accounts[0]
            )
        );
        registry.remove(IPartyRegistry.Role.Solver);
    }

    function test_theLastTakesThePlaceOfWhoLeaves() public {
        for (uint256 i = 0; i < 3; ++i) {
            register(i, IPartyRegistry.Role.Solver, ENDPOINT);
        }
        vm.expectEmit(address(registry));
        emit IPartyRegistry.PartyRemoved(IPartyRegistry.Role.Solver, accounts[0]);
        vm.prank(accounts[0]);
        registry.remove(IPartyRegistry.Role.Solver);
        IPartyRegistry.Party[] memory page = registry.list(IPartyRegistry.Role.Solver, 0, 10);
        vm.assertEq(page.length, 2, "two left");
        vm.assertEq(page[0].account, accounts[2], "the last moved");
        vm.assertEq(page[1].account, accounts[1], "the other stayed");
    }

    function test_pagesCoverTheListAndEnd() public {
        for (uint256 i = 0; i < 5; ++i) {
            register(i, IPartyRegistry.Role.Relayer, ENDPOINT);
        }
        IPartyRegistry.Party[] memory page = registry.list(IPartyRegistry.Role.Relayer, 0, 2);
        vm.assertEq(page.length, 2, "a whole page");
        page = registry.list(IPartyRegistry.Role.Relayer, 4, 2);
        vm.assertEq(page.length, 1, "what is left");
        vm.assertEq(page[0].account, accounts[4], "the last");
        vm.assertEq(registry.list(IPartyRegistry.Role.Relayer, 5, 2).length, 0, "the end");
        vm.assertEq(registry.list(IPartyRegistry.Role.Relayer, type(uint256).max, 2).length, 0, "far beyond");
        vm.assertEq(registry.list(IPartyRegistry.Role.Relayer, 0, type(uint256).max).length, 5, "all");
        vm.assertEq(registry.list(IPartyRegistry.Role.Relayer, 0, 0).length, 0, "none asked");
    }

    /// @dev Whatever is registered and removed, the list is the set of those that are in.
    function testFuzz_theListIsASet(uint256 seed) public {
        bool[8] memory listed;
        uint256 count = 0;
        for (uint256 i = 0; i < 24; ++i) {
            uint256 who = uint256(keccak256(abi.encode(seed, i))) % 8;
            if (listed[who] && uint256(keccak256(abi.encode(i, seed))) % 2 == 0) {
                vm.prank(accounts[who]);
                registry.remove(IPartyRegistry.Role.Watcher);
                listed[who] = false;
                --count;
            } else {
                register(who, IPartyRegistry.Role.Watcher, ENDPOINT);
                if (!listed[who]) ++count;
                listed[who] = true;
            }
        }
        IPartyRegistry.Party[] memory page = registry.list(IPartyRegistry.Role.Watcher, 0, 100);
        vm.assertEq(page.length, count, "as many");
        vm.assertEq(registry.count(IPartyRegistry.Role.Watcher), count, "and counted");
        for (uint256 i = 0; i < page.length; ++i) {
            bool found = false;
            for (uint256 who = 0; who < 8; ++who) {
                if (page[i].account != accounts[who]) continue;
                found = listed[who];
                listed[who] = false;
            }
            vm.assertTrue(found, "each that is in, once");
        }
        for (uint256 who = 0; who < 8; ++who) {
            vm.assertFalse(listed[who], "and nobody else");
        }
    }

    /* SESSION KEYS */

    address private constant KEY = address(0xbeef);

    function revocation(uint256 who, address key)
        private
        view
        returns (uint256 fromSeq, uint256 blockNumber)
    {
        IPartyRegistry.Revocation memory known = registry.revocation(accounts[who], key);
        return (known.fromSeq, known.blockNumber);
    }

    function expectRevoked(uint256 who, uint256 fromSeq, uint256 blockNumber) private view {
        (uint256 seq, uint256 number) = revocation(who, KEY);
        vm.assertEq(seq, fromSeq, "fromSeq");
        vm.assertEq(number, blockNumber, "block");
    }

    function test_aWalletRevokesItsKeyForItselfAlone() public {
        vm.roll(100);
        vm.expectEmit(address(registry));
        emit IPartyRegistry.KeyRevoked(accounts[0], KEY, 7);
        vm.prank(accounts[0]);
        registry.revokeKey(KEY, 7);
        expectRevoked(0, 7, 100);
        expectRevoked(1, 0, 0);
    }

    function test_aRevocationCanOnlyTakeMore() public {
        vm.startPrank(accounts[0]);
        vm.roll(100);
        registry.revokeKey(KEY, 7);
        vm.roll(101);
        vm.recordLogs();
        registry.revokeKey(KEY, 8);
        registry.revokeKey(KEY, 7);
        registry.revokeKey(KEY, type(uint64).max);
        vm.assertEq(vm.getRecordedLogs().length, 0, "nothing was said");
        expectRevoked(0, 7, 100);
        registry.revokeKey(KEY, 6);
        expectRevoked(0, 6, 101);
    }

    function test_aRevocationFromNowhereIsRefused() public {
        vm.prank(accounts[0]);
        vm.expectRevert(IPartyRegistry.SeqZero.selector);
        registry.revokeKey(KEY, 0);
    }

    function test_anyoneBringsWhatTheWalletSigned() public {
        vm.roll(100);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(1, registry.revocationDigest(accounts[0], KEY, 7));
        vm.expectEmit(address(registry));
        emit IPartyRegistry.KeyRevoked(accounts[0], KEY, 7);
        vm.prank(address(0xf00d));
        registry.revokeKeyFor(accounts[0], KEY, 7, v, r, s);
        vm.roll(101);
        registry.revokeKeyFor(accounts[0], KEY, 7, v, r, s);
        expectRevoked(0, 7, 100);
    }

    function test_onlyTheWalletsOwnSignatureCounts() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(2, registry.revocationDigest(accounts[0], KEY, 7));
        vm.expectRevert(
            abi.encodeWithSelector(IPartyRegistry.NotSignedByWallet.selector, accounts[0], accounts[1])
        );
        registry.revokeKeyFor(accounts[0], KEY, 7, v, r, s);
        (v, r, s) = vm.sign(1, registry.revocationDigest(accounts[0], KEY, 7));
        vm.expectPartialRevert(IPartyRegistry.NotSignedByWallet.selector);
        registry.revokeKeyFor(accounts[0], KEY, 6, v, r, s);
        vm.expectPartialRevert(IPartyRegistry.NotSignedByWallet.selector);
        registry.revokeKeyFor(accounts[0], address(0xdead), 7, v, r, s);
        vm.expectRevert(
            abi.encodeWithSelector(IPartyRegistry.NotSignedByWallet.selector, accounts[0], address(0))
        );
        registry.revokeKeyFor(accounts[0], KEY, 7, 29, r, s);
        vm.expectRevert(
            abi.encodeWithSelector(IPartyRegistry.NotSignedByWallet.selector, address(0), address(0))
        );
        registry.revokeKeyFor(address(0), KEY, 7, 29, r, s);
        expectRevoked(0, 0, 0);
    }

    function test_theHigherOfTwoSIsRefused() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(1, registry.revocationDigest(accounts[0], KEY, 7));
        bytes32 high =
            bytes32(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141 - uint256(s));
        vm.expectRevert(
            abi.encodeWithSelector(IPartyRegistry.NotSignedByWallet.selector, accounts[0], address(0))
        );
        registry.revokeKeyFor(accounts[0], KEY, 7, 55 - v, r, high);
    }

    function test_aRevocationCountsOnItsOwnChainAndRegistryAlone() public {
        bytes32 digest = registry.revocationDigest(accounts[0], KEY, 7);
        vm.assertNotEq(new PartyRegistry().revocationDigest(accounts[0], KEY, 7), digest, "registry");
        vm.chainId(block.chainid + 1);
        vm.assertNotEq(registry.revocationDigest(accounts[0], KEY, 7), digest, "chain");
    }

    /// @dev Whatever is revoked in whatever order and by whichever way, the lowest seq stands, with the block
    /// that brought it; and nobody's key is touched by another's word.
    function testFuzz_theLowestSeqStands(uint256 seed) public {
        uint256[2] memory lowest;
        uint256[2] memory since;
        for (uint256 i = 0; i < 16; ++i) {
            uint256 word = uint256(keccak256(abi.encode(seed, i)));
            (uint256 who, uint64 fromSeq) = (word & 1, uint64(bound(word >> 8, 1, 9)));
            vm.roll(1000 + i);
            if (word & 2 == 0) {
                vm.prank(accounts[who]);
                registry.revokeKey(KEY, fromSeq);
            } else {
                (uint8 v, bytes32 r, bytes32 s) =
                    vm.sign(who + 1, registry.revocationDigest(accounts[who], KEY, fromSeq));
                registry.revokeKeyFor(accounts[who], KEY, fromSeq, v, r, s);
            }
            if (lowest[who] == 0 || fromSeq < lowest[who]) (lowest[who], since[who]) = (fromSeq, 1000 + i);
            expectRevoked(0, lowest[0], since[0]);
            expectRevoked(1, lowest[1], since[1]);
        }
    }

    /* SECP256K1, as much as the keys of small secrets need */

    uint256 private constant GX = 0x79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798;
    uint256 private constant GY = 0x483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8;
    uint256 private constant Q = 0xfffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f;

    function inverse(uint256 a) private pure returns (uint256 power) {
        power = 1;
        for (uint256 e = Q - 2; e != 0; e >>= 1) {
            if (e & 1 != 0) power = mulmod(power, a, Q);
            a = mulmod(a, a, Q);
        }
    }

    function double(uint256 x, uint256 y) private pure returns (uint256, uint256) {
        return along(mulmod(3, mulmod(x, x, Q), Q), mulmod(2, y, Q), x, y, x);
    }

    function add(uint256 x, uint256 y, uint256 u, uint256 v) private pure returns (uint256, uint256) {
        return along(addmod(v, Q - y, Q), addmod(u, Q - x, Q), x, y, u);
    }

    function along(uint256 rise, uint256 run, uint256 x, uint256 y, uint256 u)
        private
        pure
        returns (uint256 x3, uint256 y3)
    {
        uint256 slope = mulmod(rise, inverse(run), Q);
        x3 = addmod(mulmod(slope, slope, Q), addmod(Q - x, Q - u, Q), Q);
        y3 = addmod(mulmod(slope, addmod(x, Q - x3, Q), Q), Q - y, Q);
    }
}
