// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {IPSymm} from "../src/interfaces/IPSymm.sol";
import {World} from "./World.sol";

/// @dev What the moves cost as transactions, calldata and all, in a tree of about 2^20 leaves.
///
/// Nobody inserts a million notes for a test. The tree's state is its size and its peaks, and what a move
/// costs depends on the size's bits and on whether a storage slot was written before, never on the values.
/// So the tree is grown by writing a size near 2^20 and peaks that were never zero; the proofs rest on a
/// root that the tree had when it was small, as any proof may.
contract GasTest is World {
    /// @dev For a tree of 2^20 leaves. Other sizes cost more for each set bit: the mean and the worst are
    /// bounded to notice when they grow.
    uint256 private constant TARGET = 1_200_000;
    uint256 private constant MEAN_MOST = 1_300_000;
    uint256 private constant WORST_MOST = 1_475_000;
    uint256 private constant SAMPLES = 24;

    /// @dev Storage of PSymm: the tree's size, then its peaks from level 0 up.
    bytes32 private constant SIZE_SLOT = bytes32(uint256(0));
    uint256 private constant PEAKS_SLOT = 1;

    function grow(uint256 size) private {
        vm.store(address(psymm), SIZE_SLOT, bytes32(size));
        for (uint256 level = 0; level <= 20; ++level) {
            uint256 peak = uint256(keccak256(abi.encode("peak", level))) % FIELD;
            vm.store(address(psymm), bytes32(PEAKS_SLOT + level), bytes32(peak));
        }
        vm.assertEq(psymm.size(), size, "the tree's size is where this test writes it");
    }

    /// @dev In isolation a call is a transaction: what it costs includes 21,000 and its calldata.
    function costOf(bytes memory data) private returns (uint256 gas) {
        gas = gasleft();
        (bool done,) = address(psymm).call(data);
        gas -= gasleft();
        vm.assertTrue(done, "the move is valid");
    }

    /// @dev Prints and bounds what a move costs at 2^20 leaves, at 2^20 - 1, where every level takes a
    /// hash, and for sizes drawn at random.
    function measure(
        string memory what,
        bytes memory data,
        uint256 target,
        uint256 meanMost,
        uint256 worstMost
    ) private {
        uint256 stated = costAt(1 << 20, data);
        uint256 worst = costAt((1 << 20) - 1, data);
        uint256 mean = 0;
        for (uint256 i = 0; i < SAMPLES; ++i) {
            mean += costAt((1 << 19) + uint256(keccak256(abi.encode(what, i))) % (1 << 20), data);
        }
        mean /= SAMPLES;
        print(
            string.concat(
                what,
                ": 2^20 leaves ",
                vm.toString(stated),
                ", mean over sizes near it ",
                vm.toString(mean),
                ", worst (2^20 - 1) ",
                vm.toString(worst)
            )
        );
        vm.assertLe(stated, target, "in a tree of 2^20 leaves");
        vm.assertLe(mean, meanMost, "mean");
        vm.assertLe(worst, worstMost, "worst");
    }

    function costAt(uint256 size, bytes memory data) private returns (uint256 gas) {
        uint256 before = vm.snapshotState();
        grow(size);
        gas = costOf(data);
        vm.revertToState(before);
    }

    /// forge-config: default.isolate = true
    function test_aCtcCostsAtMostTheTarget() public {
        bytes memory data = abi.encodeCall(IPSymm.custodyToCustody, (looseCtc(false)));
        measure("CTC without fee", data, TARGET, MEAN_MOST, WORST_MOST);
        data = abi.encodeCall(IPSymm.custodyToCustody, (looseCtc(true)));
        measure("CTC with fee", data, TARGET, MEAN_MOST, WORST_MOST);
    }

    /// forge-config: default.isolate = true
    function test_aCtaCostsAtMostTheTarget() public {
        bytes memory data = abi.encodeCall(IPSymm.custodyToAddress, (looseCta(false)));
        measure("CTA without fee", data, TARGET, MEAN_MOST, WORST_MOST);
        data = abi.encodeCall(IPSymm.custodyToAddress, (looseCta(true)));
        measure("CTA with fee", data, TARGET, MEAN_MOST, WORST_MOST);
    }

    /// forge-config: default.isolate = true
    function test_aDepositStaysCheap() public {
        tokenA.mint(address(this), 1e12);
        tokenA.approve(portal, type(uint256).max);
        bytes memory data = abi.encodeCall(IPSymm.addressToCustody, (address(tokenA), 1e6, 12_345, memo256()));
        measure("ATC", data, 200_000, 350_000, 500_000);
    }
}
