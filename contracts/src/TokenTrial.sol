// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {IToken} from "./TokenPortal.sol";
import {ITokenPortal} from "./interfaces/ITokenPortal.sol";

/// @dev What a token says about itself.
interface ITokenMetadata {
    function decimals() external view returns (uint8);
    function symbol() external view returns (string memory);
}

/// @title TokenFacts
/// @notice Never deployed. A node runs this creation in `eth_call`; what it returns is not code but
/// abi.encode(code size, first bytes of the code, decimals' answer, symbol's answer).
/// @dev An answer is empty where the call failed. Asked from inside the EVM, a token that reverts, uses up
/// all its gas, runs an invalid opcode or returns megabytes looks the same through every node.
contract TokenFacts {
    uint256 private constant _GAS = 500_000;
    uint256 private constant _BOUND = 256;

    constructor(address token) {
        bytes memory head = new bytes(3);
        assembly ("memory-safe") {
            extcodecopy(token, add(head, 32), 0, 3)
        }
        bytes memory all = abi.encode(
            token.code.length,
            head,
            _ask(token, abi.encodeCall(ITokenMetadata.decimals, ())),
            _ask(token, abi.encodeCall(ITokenMetadata.symbol, ()))
        );
        assembly ("memory-safe") {
            return(add(all, 32), mload(all))
        }
    }

    function _ask(address token, bytes memory data) private view returns (bytes memory said) {
        uint256 bound = _BOUND;
        uint256 limit = _GAS;
        assembly ("memory-safe") {
            let done := staticcall(limit, token, add(data, 32), mload(data), 0, 0)
            let length := mul(done, returndatasize())
            if gt(length, bound) { length := bound }
            said := mload(0x40)
            mstore(said, length)
            returndatacopy(add(said, 32), 0, length)
            mstore(0x40, add(add(said, 32), and(add(length, 31), not(31))))
        }
    }
}

/// @title TokenTrial
/// @notice Never deployed. A node runs it in `eth_call`, in the place of a token's holder (a state
/// override), with a portal that takes the holder for PSymm. It deposits and is paid back.
/// @dev The portal is the real one, so what it refuses here is what it would refuse on chain. The trial also
/// looks at the other ends of both transfers, which the portal does not: a holder that is debited more than
/// it deposits, a payee that gets less than it is paid.
contract TokenTrial {
    error ApprovalRefused(address token, bytes said);
    error ApprovalIgnored(address token, uint256 allowance, uint256 amount);
    error HolderPaidOtherAmount(address token, uint256 amount, uint256 before, uint256 then);
    error PayeeGotOtherAmount(address token, uint256 amount, uint256 before, uint256 then);

    /// @dev Some tokens call a payee that has code. A holder that is no contract would not have been asked.
    fallback(bytes calldata) external returns (bytes memory) {
        return abi.encode(msg.sig);
    }

    /// @return 1, so that a node that knows no state overrides, and so runs nothing, is told apart.
    function depositAndWithdraw(address token, ITokenPortal portal, uint256 amount)
        external
        returns (uint256)
    {
        uint256 allowed = IToken(token).allowance(address(this), address(portal));
        if (allowed < amount) {
            // As a deposit does it: some tokens change an allowance from or to zero only.
            if (allowed != 0) _approve(token, address(portal), 0);
            _approve(token, address(portal), amount);
            allowed = IToken(token).allowance(address(this), address(portal));
            if (allowed < amount) revert ApprovalIgnored(token, allowed, amount);
        }
        uint256 before = IToken(token).balanceOf(address(this));
        portal.collect(address(this), token, amount);
        uint256 then = IToken(token).balanceOf(address(this));
        unchecked {
            if (then > before || before - then != amount) {
                revert HolderPaidOtherAmount(token, amount, before, then);
            }
            portal.pay(token, address(this), amount);
            (before, then) = (then, IToken(token).balanceOf(address(this)));
            if (then < before || then - before != amount) {
                revert PayeeGotOtherAmount(token, amount, before, then);
            }
        }
        return 1;
    }

    /// @dev The start of the answer is kept for the error. A transaction ignores what approve returns; an
    /// answer of false that still set the allowance is no obstacle.
    function _approve(address token, address spender, uint256 amount) private {
        bytes memory data = abi.encodeWithSignature("approve(address,uint256)", spender, amount);
        bool done;
        bytes memory said;
        assembly ("memory-safe") {
            done := call(gas(), token, 0, add(data, 32), mload(data), 0, 0)
            let length := returndatasize()
            if gt(length, 256) { length := 256 }
            said := mload(0x40)
            mstore(said, length)
            returndatacopy(add(said, 32), 0, length)
            mstore(0x40, add(add(said, 32), and(add(length, 31), not(31))))
        }
        if (!done) revert ApprovalRefused(token, said);
    }
}
