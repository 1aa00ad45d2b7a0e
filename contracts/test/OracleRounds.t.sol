// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {OracleRounds} from "../src/OracleRounds.sol";
import {Test} from "./Vm.sol";

/// @dev The library as a contract, so that its errors can be expected.
contract OracleJudge {
    function expectSound(address[] calldata signers, uint256 threshold) external pure {
        OracleRounds.expectSound(signers, threshold);
    }

    function expectSigned(
        bytes32 digest,
        bytes[] calldata signatures,
        address[] calldata signers,
        uint256 threshold
    ) external pure {
        OracleRounds.expectSigned(digest, signatures, signers, threshold);
    }

    function expectIncluded(bytes32 root, OracleRounds.ProvenLeaf calldata proven) external pure {
        OracleRounds.expectIncluded(root, proven);
    }

    function expectAbsent(
        bytes32 root,
        bytes32 feed,
        uint64 epoch,
        OracleRounds.ProvenLeaf[] calldata before,
        OracleRounds.ProvenLeaf[] calldata after_
    ) external pure {
        OracleRounds.expectAbsent(root, feed, epoch, before, after_);
    }
}

/// @dev Against tests/vectors/oracle.json, which Python reads too: trees and paths by pymerkle, digests and
/// signatures by eth-account; and against trees made here by their definition.
contract OracleRoundsTest is Test {
    OracleJudge private judge;
    string private json;

    function setUp() public {
        judge = new OracleJudge();
        json = vm.readFile("../tests/vectors/oracle.json");
    }

    function at(string memory list, uint256 i) private pure returns (string memory) {
        return string.concat(list, "[", vm.toString(i), "]");
    }

    function proof(string memory where) private view returns (OracleRounds.ProvenLeaf memory found) {
        found.leaf.feed = vm.parseJsonBytes32(json, string.concat(where, ".feedWord"));
        found.leaf.epoch = uint64(vm.parseJsonUint(json, string.concat(where, ".epoch")));
        found.leaf.value = int256(uint256(vm.parseJsonBytes32(json, string.concat(where, ".valueWord"))));
        found.path.siblings = vm.parseJsonBytes32Array(json, string.concat(where, ".siblings"));
        found.path.directions = vm.parseJsonUint(json, string.concat(where, ".directions"));
    }

    /// @dev The proof of the leaf with this index, as a list of one; of none if the index is -1.
    function neighbour(string memory round, int256 index)
        private
        view
        returns (OracleRounds.ProvenLeaf[] memory found)
    {
        if (index < 0) return found;
        found = new OracleRounds.ProvenLeaf[](1);
        uint256 i = 0;
        string memory where = at(string.concat(round, ".proofs"), i);
        while (vm.parseJsonUint(json, string.concat(where, ".index")) != uint256(index)) {
            where = at(string.concat(round, ".proofs"), ++i);
        }
        found[0] = proof(where);
    }

    /* VECTORS */

    function test_rule41_digestsAndSignaturesAreEthAccounts() public view {
        address[] memory signers = vm.parseJsonAddressArray(json, ".signers");
        judge.expectSound(signers, 2);
        uint256 i = 0;
        for (; vm.keyExistsJson(json, string.concat(at(".rounds", i), ".digest")); ++i) {
            string memory where = at(".rounds", i);
            bytes32 digest = OracleRounds.digestOf(
                vm.parseJsonBytes32(json, string.concat(where, ".domainSeparator")),
                vm.parseJsonBytes32(json, string.concat(where, ".root")),
                uint64(vm.parseJsonUint(json, string.concat(where, ".timestamp")))
            );
            vm.assertEq(digest, vm.parseJsonBytes32(json, string.concat(where, ".digest")), "digest");
            bytes[] memory signatures = vm.parseJsonBytesArray(json, string.concat(where, ".signatures"));
            judge.expectSigned(digest, signatures, signers, 3);
            for (uint256 j = 0; j < signers.length; ++j) {
                vm.assertEq(OracleRounds.signerOf(digest, signatures[j]), signers[j], "signer");
            }
        }
        vm.assertLe(9, i, "there are rounds");
    }

    function test_rule41_pathsArePymerkles() public view {
        uint256 many = 0;
        for (uint256 i = 0; vm.keyExistsJson(json, string.concat(at(".rounds", i), ".root")); ++i) {
            bytes32 root = vm.parseJsonBytes32(json, string.concat(at(".rounds", i), ".root"));
            string memory list = string.concat(at(".rounds", i), ".proofs");
            for (uint256 j = 0; vm.keyExistsJson(json, string.concat(at(list, j), ".index")); ++j) {
                judge.expectIncluded(root, proof(at(list, j)));
                ++many;
            }
        }
        vm.assertLe(40, many, "there are proofs");
    }

    function test_rule47_absencesAreProvenByTheNeighbours() public view {
        uint256 many = 0;
        for (uint256 i = 0; vm.keyExistsJson(json, string.concat(at(".rounds", i), ".root")); ++i) {
            bytes32 root = vm.parseJsonBytes32(json, string.concat(at(".rounds", i), ".root"));
            string memory list = string.concat(at(".rounds", i), ".absent");
            for (uint256 j = 0; vm.keyExistsJson(json, string.concat(at(list, j), ".feed")); ++j) {
                string memory where = at(list, j);
                judge.expectAbsent(
                    root,
                    vm.parseJsonBytes32(json, string.concat(where, ".feedWord")),
                    uint64(vm.parseJsonUint(json, string.concat(where, ".epoch"))),
                    neighbour(at(".rounds", i), vm.parseJsonInt(json, string.concat(where, ".before"))),
                    neighbour(at(".rounds", i), vm.parseJsonInt(json, string.concat(where, ".after")))
                );
                ++many;
            }
        }
        vm.assertLe(40, many, "there are absences");
    }

    /* SIGNERS */

    function test_rule41_aThresholdOfHalfOrLessIsUnsound() public {
        address[] memory three = addresses(3);
        for (uint256 threshold = 0; threshold < 6; ++threshold) {
            if (threshold == 2 || threshold == 3) {
                judge.expectSound(three, threshold);
            } else {
                vm.expectRevert(
                    abi.encodeWithSelector(OracleRounds.SignersUnsound.selector, uint256(3), threshold)
                );
                judge.expectSound(three, threshold);
            }
        }
        vm.expectPartialRevert(OracleRounds.SignersUnsound.selector);
        judge.expectSound(addresses(4), 2);
        vm.expectPartialRevert(OracleRounds.SignersUnsound.selector);
        judge.expectSound(addresses(0), 0);
        vm.expectPartialRevert(OracleRounds.SignersUnsound.selector);
        judge.expectSound(addresses(17), 9);
        judge.expectSound(addresses(16), 9);
        three[2] = three[0];
        vm.expectRevert(abi.encodeWithSelector(OracleRounds.SignerRepeated.selector, three[0]));
        judge.expectSound(three, 2);
        three[2] = address(0);
        vm.expectRevert(abi.encodeWithSelector(OracleRounds.SignerRepeated.selector, address(0)));
        judge.expectSound(three, 2);
    }

    function addresses(uint256 many) private pure returns (address[] memory found) {
        found = new address[](many);
        for (uint256 i = 0; i < many; ++i) {
            found[i] = vm.addr(i + 1);
        }
    }

    function signature(uint256 key, bytes32 digest) private pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function test_rule41_strangersRepetitionsAndJunkCountForNothing() public {
        bytes32 digest = keccak256("a round");
        bytes[] memory signatures = new bytes[](4);
        signatures[0] = signature(1, digest);
        signatures[1] = signature(1, digest);
        signatures[2] = signature(9, digest);
        signatures[3] = new bytes(65);
        address[] memory signers = addresses(3);
        expectOne(digest, signatures, signers);
        signatures[3] = hex"00";
        expectOne(digest, signatures, signers);
        signatures[3] = signature(2, keccak256("another round"));
        expectOne(digest, signatures, signers);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(2, digest);
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        signatures[3] = abi.encodePacked(r, order - uint256(s), uint8(55 - v));
        expectOne(digest, signatures, signers);
        signatures[3] = abi.encodePacked(r, s, v);
        judge.expectSigned(digest, signatures, signers, 2);
        vm.expectRevert(abi.encodeWithSelector(OracleRounds.TooManySignatures.selector, uint256(17)));
        judge.expectSigned(digest, new bytes[](17), signers, 2);
    }

    function expectOne(bytes32 digest, bytes[] memory signatures, address[] memory signers) private {
        vm.expectRevert(abi.encodeWithSelector(OracleRounds.TooFewSigners.selector, uint256(1), uint256(2)));
        judge.expectSigned(digest, signatures, signers, 2);
    }

    /* PROOFS */

    /// @dev A tree by its definition, level by level, and the paths of all its leaves.
    function tree(uint256 many) private pure returns (bytes32 root, OracleRounds.ProvenLeaf[] memory proven) {
        proven = new OracleRounds.ProvenLeaf[](many);
        bytes32[] memory nodes = new bytes32[](many);
        uint256[] memory places = new uint256[](many);
        for (uint256 i = 0; i < many; ++i) {
            // Every second leaf is a rate of the feed before it.
            proven[i].leaf = OracleRounds.Leaf(bytes32(2 * (i / 2) + 2), i % 2 == 0 ? 0 : 10, int256(i) - 5);
            proven[i].path.siblings = new bytes32[](9);
            places[i] = i;
            nodes[i] = keccak256(abi.encode(proven[i].leaf.feed, proven[i].leaf.epoch, proven[i].leaf.value));
        }
        uint256[] memory lengths = new uint256[](many);
        for (uint256 left = many; left > 1; left = (left + 1) / 2) {
            for (uint256 i = 0; i < many; ++i) {
                uint256 beside = places[i] ^ 1;
                if (beside < left) {
                    proven[i].path.siblings[lengths[i]] = nodes[beside];
                    proven[i].path.directions |= (places[i] & 1) << lengths[i]++;
                }
                places[i] /= 2;
            }
            for (uint256 i = 0; i < left; i += 2) {
                nodes[i / 2] = i + 1 < left ? keccak256(abi.encode(nodes[i], nodes[i + 1])) : nodes[i];
            }
        }
        for (uint256 i = 0; i < many; ++i) {
            bytes32[] memory siblings = proven[i].path.siblings;
            uint256 length = lengths[i];
            assembly ("memory-safe") {
                mstore(siblings, length)
            }
        }
        root = nodes[0];
    }

    function one(OracleRounds.ProvenLeaf memory proven)
        private
        pure
        returns (OracleRounds.ProvenLeaf[] memory found)
    {
        found = new OracleRounds.ProvenLeaf[](1);
        found[0] = proven;
    }

    /// @dev Any pair of leaves of any tree: they prove an absence if, and only if, one follows the other.
    function testFuzz_rule47_onlyTrueNeighboursProveAnAbsence(uint256 many, uint256 i, uint256 j) public {
        many = bound(many, 2, 40);
        (bytes32 root, OracleRounds.ProvenLeaf[] memory proven) = tree(many);
        i = bound(i, 0, many - 2);
        j = bound(j, i + 1, many - 1);
        OracleRounds.Leaf memory leaf = proven[i].leaf;
        if (j > i + 1) vm.expectRevert(OracleRounds.NotAdjacent.selector);
        judge.expectAbsent(root, leaf.feed, leaf.epoch + 1, one(proven[i]), one(proven[j]));
        OracleRounds.ProvenLeaf[] memory none;
        if (j > 0) vm.expectRevert(OracleRounds.NotAdjacent.selector);
        judge.expectAbsent(root, 0, 0, none, one(proven[j]));
        judge.expectAbsent(root, 0, 0, none, one(proven[0]));
        vm.expectRevert(OracleRounds.NotAdjacent.selector);
        judge.expectAbsent(root, bytes32(type(uint256).max), 0, one(proven[i]), none);
        judge.expectAbsent(root, bytes32(type(uint256).max), 0, one(proven[many - 1]), none);
        // The sides in the wrong order, the leaf itself, and no neighbour at all.
        vm.expectPartialRevert(OracleRounds.WrongSide.selector);
        judge.expectAbsent(root, leaf.feed, leaf.epoch + 1, one(proven[j]), one(proven[i]));
        vm.expectPartialRevert(OracleRounds.WrongSide.selector);
        judge.expectAbsent(root, leaf.feed, leaf.epoch, one(proven[i]), one(proven[i + 1]));
        vm.expectRevert(OracleRounds.NoNeighbour.selector);
        judge.expectAbsent(root, leaf.feed, leaf.epoch + 1, none, none);
    }

    function testFuzz_aProofOfAnythingElseIsRefused(uint256 many, uint256 i, uint256 bit) public {
        many = bound(many, 2, 40);
        (bytes32 root, OracleRounds.ProvenLeaf[] memory proven) = tree(many);
        OracleRounds.ProvenLeaf memory chosen = proven[bound(i, 0, many - 1)];
        judge.expectIncluded(root, chosen);
        chosen.leaf.value ^= int256(1 << bound(bit, 0, 255));
        vm.expectPartialRevert(OracleRounds.WrongRoot.selector);
        judge.expectIncluded(root, chosen);
        chosen.leaf.value ^= int256(1 << bound(bit, 0, 255));
        chosen.leaf.epoch ^= uint64(1 << bound(bit, 0, 63));
        vm.expectPartialRevert(OracleRounds.WrongRoot.selector);
        judge.expectIncluded(root, chosen);
        chosen.leaf.epoch ^= uint64(1 << bound(bit, 0, 63));
        uint256 level = bound(bit, 0, chosen.path.siblings.length - 1);
        chosen.path.directions ^= 1 << level;
        vm.expectPartialRevert(OracleRounds.WrongRoot.selector);
        judge.expectIncluded(root, chosen);
        chosen.path.directions ^= 1 << level;
        chosen.path.siblings[level] ^= bytes32(uint256(1));
        vm.expectPartialRevert(OracleRounds.WrongRoot.selector);
        judge.expectIncluded(root, chosen);
    }

    function test_aPathWithoutAValidFormIsRefused() public {
        (bytes32 root, OracleRounds.ProvenLeaf[] memory proven) = tree(3);
        proven[0].path.directions |= 4;
        vm.expectRevert(abi.encodeWithSelector(OracleRounds.PathMalformed.selector, uint256(2), uint256(4)));
        judge.expectIncluded(root, proven[0]);
        proven[1].path.siblings = new bytes32[](10);
        vm.expectPartialRevert(OracleRounds.PathMalformed.selector);
        judge.expectIncluded(root, proven[1]);
    }

    /// @dev What a court would pay to check one price of a round of 512 leaves, signed by 9 of 16.
    function test_gasOfOnePrice() public view {
        bytes32 digest = keccak256("a round");
        bytes[] memory signatures = new bytes[](9);
        for (uint256 i = 0; i < 9; ++i) {
            signatures[i] = signature(i + 8, digest);
        }
        address[] memory signers = addresses(16);
        string memory where = ".rounds[8].proofs[2]";
        OracleRounds.ProvenLeaf memory proven = proof(where);
        bytes32 root = vm.parseJsonBytes32(json, ".rounds[8].root");
        uint256 gas = gasleft();
        OracleRounds.expectSigned(digest, signatures, signers, 9);
        OracleRounds.expectIncluded(root, proven);
        gas -= gasleft();
        print(string.concat("one price of 512, signed by 9 of 16: ", vm.toString(gas), " gas"));
        vm.assertLe(gas, 90_000, "gas");
    }
}
