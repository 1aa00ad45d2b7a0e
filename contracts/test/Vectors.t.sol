// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {LeanIMT} from "../src/LeanIMT.sol";
import {Poseidon2} from "../src/Poseidon2.sol";
import {IPSymm} from "../src/interfaces/IPSymm.sol";
import {World} from "./World.sol";

/// @dev Poseidon2 by its definition (eprint 2023/323), slow and plain.
contract PlainPoseidon2 {
    uint256 private constant P = 0x30644e72e131a029b85045b68181585d2833e84879b9709143e1f593f0000001;

    uint256[4][64] private constants;

    /// @dev Round constants by the Grain LFSR, seeded with what the permutation is: a prime field, x^5, 254
    /// bits, width 4, 8 full and 56 partial rounds.
    constructor() {
        uint256 bits = 0;
        uint256 length = 0;
        (bits, length) = append(bits, length, 1, 2);
        (bits, length) = append(bits, length, 0, 4);
        (bits, length) = append(bits, length, 254, 12);
        (bits, length) = append(bits, length, 4, 12);
        (bits, length) = append(bits, length, 8, 10);
        (bits, length) = append(bits, length, 56, 10);
        (bits, length) = append(bits, length, (1 << 30) - 1, 30);
        for (uint256 i = 0; i < 160; ++i) {
            bits = step(bits);
        }
        for (uint256 round = 0; round < 64; ++round) {
            uint256 used = round < 4 || round >= 60 ? 4 : 1;
            for (uint256 i = 0; i < used; ++i) {
                (bits, constants[round][i]) = element(bits);
            }
        }
    }

    function permutation(uint256[4] memory s) external view returns (uint256[4] memory) {
        s = externalMatrix(s);
        for (uint256 round = 0; round < 64; ++round) {
            bool full = round < 4 || round >= 60;
            for (uint256 i = 0; i < (full ? 4 : 1); ++i) {
                uint256 x = addmod(s[i], constants[round][i], P);
                s[i] = mulmod(mulmod(mulmod(x, x, P), mulmod(x, x, P), P), x, P);
            }
            s = full ? externalMatrix(s) : internalMatrix(s);
        }
        return s;
    }

    function externalMatrix(uint256[4] memory s) private pure returns (uint256[4] memory) {
        uint8[4][4] memory m = [[5, 7, 1, 3], [4, 6, 1, 1], [1, 3, 5, 7], [1, 1, 4, 6]];
        uint256[4] memory t;
        for (uint256 i = 0; i < 4; ++i) {
            for (uint256 j = 0; j < 4; ++j) {
                t[i] = addmod(t[i], mulmod(m[i][j], s[j], P), P);
            }
        }
        return t;
    }

    function internalMatrix(uint256[4] memory s) private pure returns (uint256[4] memory) {
        uint256[4] memory d = [
            0x10dc6e9c006ea38b04b1e03b4bd9490c0d03f98929ca1d7fb56821fd19d3b6e7,
            0x0c28145b6a44df3e0149b3d0a30b3bb599df9756d4dd9b84a86b38cfb45a740b,
            0x00544b8338791518b2c7645a50392798b21f75bb60e3596170067d00141cac15,
            0x222c01175718386f2e2e82eb122789e352e105a3b8fa852613bc534433ee428b
        ];
        uint256 sum = addmod(addmod(s[0], s[1], P), addmod(s[2], s[3], P), P);
        for (uint256 i = 0; i < 4; ++i) {
            s[i] = addmod(mulmod(s[i], d[i], P), sum, P);
        }
        return s;
    }

    /// @dev The register's first bit is bit 0; values go in from their highest bit on.
    function append(uint256 bits, uint256 length, uint256 value, uint256 width)
        private
        pure
        returns (uint256, uint256)
    {
        for (uint256 i = width; i > 0; --i) {
            bits |= ((value >> (i - 1)) & 1) << length++;
        }
        return (bits, length);
    }

    function step(uint256 b) private pure returns (uint256) {
        unchecked {
            uint256 next = (b >> 62) ^ (b >> 51) ^ (b >> 38) ^ (b >> 23) ^ (b >> 13) ^ b;
            return (b >> 1) | ((next & 1) << 79);
        }
    }

    /// @dev 254 bits below the modulus; of each two bits of the register, a 1 says that the next one counts.
    function element(uint256 bits) private pure returns (uint256, uint256 value) {
        do {
            value = 0;
            for (uint256 i = 0; i < 254; ++i) {
                bits = step(bits);
                while (bits >> 79 == 0) {
                    bits = step(step(bits));
                }
                bits = step(bits);
                value = (value << 1) | (bits >> 79);
            }
        } while (value >= P);
        return (bits, value);
    }
}

/// @dev Solidity against the vectors that Rust, Noir, Python and JavaScript read too: hashes, notes and
/// trees by Barretenberg, digests and signatures by eth-account.
contract VectorsTest is World {
    using LeanIMT for LeanIMT.Tree;

    LeanIMT.Tree private tree;
    PlainPoseidon2 private plainOne;

    function setUp() public override {
        deploy();
        plainOne = new PlainPoseidon2();
    }

    function at(string memory list, uint256 i, string memory field) private pure returns (string memory) {
        return string.concat(".", list, "[", vm.toString(i), "].", field);
    }

    /* HASHES */

    function test_thePermutationIsBarretenbergs() public view {
        string memory json = vm.readFile("../tests/vectors/poseidon2.json");
        uint256 i = 0;
        for (; vm.keyExistsJson(json, at("permutations", i, "state")); ++i) {
            bytes32[] memory given = vm.parseJsonBytes32Array(json, at("permutations", i, "state"));
            bytes32[] memory expected = vm.parseJsonBytes32Array(json, at("permutations", i, "result"));
            uint256[4] memory state;
            for (uint256 j = 0; j < 4; ++j) {
                state[j] = uint256(given[j]);
            }
            state = Poseidon2.permutation(state);
            for (uint256 j = 0; j < 4; ++j) {
                vm.assertEq(bytes32(state[j]), expected[j], "an element of the permuted state");
            }
        }
        vm.assertLe(5, i, "there are vectors");
    }

    function test_hashesOfAnyLengthAreBarretenbergs() public view {
        string memory json = vm.readFile("../tests/vectors/poseidon2.json");
        uint256 i = 0;
        for (; vm.keyExistsJson(json, at("hashes", i, "hash")); ++i) {
            bytes32[] memory given = vm.parseJsonBytes32Array(json, at("hashes", i, "inputs"));
            bytes32 expected = vm.parseJsonBytes32(json, at("hashes", i, "hash"));
            uint256[] memory inputs = new uint256[](given.length);
            for (uint256 j = 0; j < given.length; ++j) {
                inputs[j] = uint256(given[j]);
            }
            vm.assertEq(bytes32(Poseidon2.hash(inputs)), expected, "H_n");
            if (inputs.length == 2) {
                vm.assertEq(bytes32(Poseidon2.hash2(inputs[0], inputs[1])), expected, "H2");
            }
            if (inputs.length == 3) {
                vm.assertEq(bytes32(Poseidon2.hash3(inputs[0], inputs[1], inputs[2])), expected, "H3");
            }
        }
        vm.assertLe(50, i, "there are vectors");
    }

    function test_anInputAtTheModulusIsRefused() public {
        uint256[] memory inputs = new uint256[](4);
        inputs[3] = FIELD;
        vm.expectRevert(abi.encodeWithSelector(Poseidon2.InputNotInField.selector, FIELD));
        Poseidon2.hash(inputs);
    }

    /// @dev Against the definition, with constants made here by the Grain generator that defines them and
    /// every sum reduced: what Poseidon2 leaves unreduced never passes 2^256, whatever comes in.
    function testFuzz_thePermutationIsThePapers(uint256[4] memory state) public view {
        for (uint256 i = 0; i < 4; ++i) {
            // Half of them just below the modulus, where sums are largest.
            state[i] = state[i] % 2 == 0 ? (state[i] >> 1) % FIELD : FIELD - 1 - (state[i] >> 1) % 1000;
        }
        uint256[4] memory expected = plainOne.permutation(state);
        vm.assertEq(
            Poseidon2.hash3(state[0], state[1], state[2]),
            plainOne.permutation([state[0], state[1], state[2], 3 << 64])[0],
            "H3"
        );
        uint256[4] memory found = Poseidon2.permutation(state);
        for (uint256 i = 0; i < 4; ++i) {
            vm.assertEq(found[i], expected[i], "an element of the permuted state");
        }
    }

    function test_notesAndCustodiesAreBarretenbergs() public view {
        string memory json = vm.readFile("../tests/vectors/poseidon2.json");
        uint256 i = 0;
        for (; vm.keyExistsJson(json, at("notes", i, "inner")); ++i) {
            uint256 inner = uint256(vm.parseJsonBytes32(json, at("notes", i, "inner")));
            uint256 token = uint256(vm.parseJsonBytes32(json, at("notes", i, "token")));
            uint256 amount = uint256(vm.parseJsonBytes32(json, at("notes", i, "amount")));
            uint256 commitment = uint256(vm.parseJsonBytes32(json, at("notes", i, "commitment")));
            uint256 blinding = uint256(vm.parseJsonBytes32(json, at("notes", i, "blinding")));
            uint256 custody = uint256(vm.parseJsonBytes32(json, at("notes", i, "custodyId")));
            vm.assertEq(Poseidon2.hash2(custody, blinding), inner, "inner");
            vm.assertEq(Poseidon2.hash3(inner, token, amount), commitment, "commitment");
            vm.assertEq(
                bytes32(Poseidon2.hash3(commitment, blinding, 1)),
                vm.parseJsonBytes32(json, at("notes", i, "nullifier")),
                "nullifier"
            );
        }
        vm.assertLe(5, i, "there are notes");
        for (i = 0; vm.keyExistsJson(json, at("custodies", i, "custodyId")); ++i) {
            uint256[] memory five = new uint256[](5);
            five[0] = keyOf(json, at("custodies", i, "trader"));
            five[1] = keyOf(json, at("custodies", i, "solver"));
            uint256 terms = uint256(vm.parseJsonBytes32(json, at("custodies", i, "terms")));
            (five[2], five[3]) = (terms >> 128, uint128(terms));
            five[4] = uint256(vm.parseJsonBytes32(json, at("custodies", i, "salt")));
            vm.assertEq(
                bytes32(Poseidon2.hash(five)),
                vm.parseJsonBytes32(json, at("custodies", i, "custodyId")),
                "custody id"
            );
        }
        vm.assertLe(2, i, "there are custodies");
    }

    function keyOf(string memory json, string memory where) private pure returns (uint256 key) {
        uint256 x = uint256(vm.parseJsonBytes32(json, string.concat(where, ".x")));
        uint256 y = uint256(vm.parseJsonBytes32(json, string.concat(where, ".y")));
        uint256[] memory four = new uint256[](4);
        (four[0], four[1], four[2], four[3]) = (x >> 128, uint128(x), y >> 128, uint128(y));
        key = Poseidon2.hash(four);
        vm.assertEq(bytes32(key), vm.parseJsonBytes32(json, string.concat(where, ".key")), "key");
    }

    /* THE TREE */

    function test_theTreesRootsAreBarretenbergs() public {
        string memory json = vm.readFile("../tests/vectors/poseidon2.json");
        bytes32[] memory leaves = vm.parseJsonBytes32Array(json, ".leaves");
        vm.assertEq(tree.root(), 0, "the empty tree");
        uint256 next = 1;
        for (uint256 size = 1; size <= leaves.length; ++size) {
            (uint256 index, uint256 root) = tree.insert(uint256(leaves[size - 1]));
            vm.assertEq(index, size - 1, "leaves count from 0");
            vm.assertEq(tree.root(), root, "the root can be read later");
            if (vm.parseJsonUint(json, at("trees", next, "size")) == size) {
                vm.assertEq(bytes32(root), vm.parseJsonBytes32(json, at("trees", next, "root")), "root");
                ++next;
            }
        }
        vm.assertFalse(vm.keyExistsJson(json, at("trees", next, "size")), "every tree was met");
    }

    function testFuzz_anyMixOfOneAndTwoGivesTheTreeOfItsLeaves(uint256 seed, uint8 moves) public {
        uint256[] memory leaves = new uint256[](128);
        uint256 size = 0;
        for (uint256 i = 0; i < moves % 48; ++i) {
            uint256 index;
            uint256 root;
            leaves[size] = uint256(keccak256(abi.encode(seed, size))) % FIELD;
            if ((seed >> i) & 1 == 0) {
                (index, root) = tree.insert(leaves[size]);
                size += 1;
            } else {
                leaves[size + 1] = uint256(keccak256(abi.encode(seed, size + 1))) % FIELD;
                (index, root) = tree.insertTwo(leaves[size], leaves[size + 1]);
                size += 2;
            }
            vm.assertEq(root, plainRoot(leaves, size), "as the definition says");
            vm.assertEq(tree.root(), root, "and later");
            vm.assertEq(tree.size, size, "size");
        }
    }

    /// @dev Where a carry runs over every level: both insertions just below a power of two.
    function testFuzz_twoAtOnceEqualsOneAfterTheOther(uint256 size) public {
        size = bound(size, 0, LeanIMT.CAPACITY - 2);
        tree.size = size;
        for (uint256 level = 0; level < 33; ++level) {
            tree.peaks[level] = 1 + level;
        }
        uint256 before = vm.snapshotState();
        (, uint256 together) = tree.insertTwo(1001, 1002);
        vm.revertToState(before);
        tree.insert(1001);
        (uint256 index, uint256 apart) = tree.insert(1002);
        vm.assertEq(index, size + 1, "the second's index");
        vm.assertEq(together, apart, "the same root");
    }

    function test_aCarryOverEveryLevel() public {
        testFuzz_twoAtOnceEqualsOneAfterTheOther((1 << 20) - 1);
        testFuzz_twoAtOnceEqualsOneAfterTheOther((1 << 20) - 2);
        testFuzz_twoAtOnceEqualsOneAfterTheOther((1 << 32) - 2);
    }

    /* DIGESTS */

    function test_digestsOfMovesAreEthAccounts() public {
        string memory json = vm.readFile("../tests/vectors/authorisation.json");
        vm.assertEq(vm.parseJsonAddress(json, ".verifyingContract"), address(psymm), "for this contract");
        uint256 i = 0;
        for (; vm.keyExistsJson(json, at("ctc", i, "digest")); ++i) {
            IPSymm.CtcCall memory call;
            call.nullifiers[0] = uint256(vm.parseJsonBytes32(json, at("ctc", i, "nullifier0")));
            call.nullifiers[1] = uint256(vm.parseJsonBytes32(json, at("ctc", i, "nullifier1")));
            call.commitments[0] = uint256(vm.parseJsonBytes32(json, at("ctc", i, "commitment0")));
            call.commitments[1] = uint256(vm.parseJsonBytes32(json, at("ctc", i, "commitment1")));
            call.relayer = vm.parseJsonAddress(json, at("ctc", i, "relayer"));
            call.feeToken = vm.parseJsonAddress(json, at("ctc", i, "feeToken"));
            call.fee = vm.parseJsonUint(json, at("ctc", i, "fee"));
            call.deadline = vm.parseJsonUint(json, at("ctc", i, "deadline"));
            call.memo0 = vm.parseJsonBytes(json, at("ctc", i, "memo0"));
            call.memo1 = vm.parseJsonBytes(json, at("ctc", i, "memo1"));
            vm.chainId(vm.parseJsonUint(json, at("ctc", i, "chainId")));
            expectSigned(json, "ctc", i, psymm.ctcDigest(call));
        }
        vm.assertLe(3, i, "there are vectors");
        i = 0;
        for (; vm.keyExistsJson(json, at("cta", i, "digest")); ++i) {
            IPSymm.CtaCall memory call;
            call.nullifiers[0] = uint256(vm.parseJsonBytes32(json, at("cta", i, "nullifier0")));
            call.nullifiers[1] = uint256(vm.parseJsonBytes32(json, at("cta", i, "nullifier1")));
            call.change = uint256(vm.parseJsonBytes32(json, at("cta", i, "change")));
            call.token = vm.parseJsonAddress(json, at("cta", i, "token"));
            call.amount = vm.parseJsonUint(json, at("cta", i, "amount"));
            call.recipient = vm.parseJsonAddress(json, at("cta", i, "recipient"));
            call.relayer = vm.parseJsonAddress(json, at("cta", i, "relayer"));
            call.fee = vm.parseJsonUint(json, at("cta", i, "fee"));
            call.deadline = vm.parseJsonUint(json, at("cta", i, "deadline"));
            call.memo = vm.parseJsonBytes(json, at("cta", i, "memo"));
            vm.chainId(vm.parseJsonUint(json, at("cta", i, "chainId")));
            expectSigned(json, "cta", i, psymm.ctaDigest(call));
        }
        vm.assertLe(3, i, "there are vectors");
    }

    function expectSigned(string memory json, string memory list, uint256 i, bytes32 digest) private view {
        vm.assertEq(
            psymm.domainSeparator(), vm.parseJsonBytes32(json, at(list, i, "domainSeparator")), "domain"
        );
        vm.assertEq(digest, vm.parseJsonBytes32(json, at(list, i, "digest")), "eth-account's digest");
        uint256 signer = vm.parseJsonUint(json, at(list, i, "signer"));
        vm.assertEq(
            recovered(digest, vm.parseJsonBytes(json, at(list, i, "signature"))),
            vm.parseJsonAddress(json, at("keys", signer, "address")),
            "the signature recovers"
        );
    }

    function test_digestsOfFramesRecoverInSolidity() public view {
        string memory json = vm.readFile("../tests/vectors/frame.json");
        bytes32 kind = keccak256(
            "Message(bytes32 custody,uint8 lane,uint64 seq,bytes32 previous,uint64 peerSeq,bytes32 peerDigest,uint64 sendingTime,bytes32 payload)"
        );
        bytes32 domain = vm.parseJsonBytes32(json, ".domain");
        uint256 i = 0;
        for (; vm.keyExistsJson(json, at("frames", i, "digest")); ++i) {
            bytes32 digest = keccak256(
                abi.encodePacked(
                    hex"1901",
                    domain,
                    keccak256(
                        abi.encode(
                            kind,
                            vm.parseJsonBytes32(json, at("frames", i, "custody")),
                            vm.parseJsonUint(json, at("frames", i, "lane")),
                            vm.parseJsonUint(json, at("frames", i, "seq")),
                            vm.parseJsonBytes32(json, at("frames", i, "previous")),
                            vm.parseJsonUint(json, at("frames", i, "peerSeq")),
                            vm.parseJsonBytes32(json, at("frames", i, "peerDigest")),
                            vm.parseJsonUint(json, at("frames", i, "sendingTime")),
                            keccak256(vm.parseJsonBytes(json, at("frames", i, "payload")))
                        )
                    )
                )
            );
            vm.assertEq(digest, vm.parseJsonBytes32(json, at("frames", i, "digest")), "eth-account's digest");
            uint256 lane = vm.parseJsonUint(json, at("frames", i, "lane"));
            vm.assertEq(
                recovered(digest, vm.parseJsonBytes(json, at("frames", i, "signature"))),
                vm.parseJsonAddress(json, at("keys", lane, "address")),
                "the lane's key"
            );
        }
        vm.assertLe(3, i, "there are vectors");
    }

    function recovered(bytes32 digest, bytes memory signature) private pure returns (address) {
        vm.assertEq(signature.length, 65, "r, s, v");
        bytes32 r;
        bytes32 s;
        assembly {
            r := mload(add(signature, 32))
            s := mload(add(signature, 64))
        }
        return ecrecover(digest, uint8(signature[64]), r, s);
    }

    /* PLAIN DEFINITIONS, to compare with */

    /// @dev The tree by its definition: pairs joined level by level, an odd last node passed up.
    function plainRoot(uint256[] memory leaves, uint256 size) private pure returns (uint256) {
        uint256[] memory level = new uint256[](size);
        for (uint256 i = 0; i < size; ++i) {
            level[i] = leaves[i];
        }
        while (size > 1) {
            for (uint256 i = 0; i < size; i += 2) {
                level[i / 2] = i + 1 < size ? Poseidon2.hash2(level[i], level[i + 1]) : level[i];
            }
            size = (size + 1) / 2;
        }
        return level[0];
    }
}
