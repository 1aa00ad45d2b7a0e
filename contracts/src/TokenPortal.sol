// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {ITokenPortal} from "./interfaces/ITokenPortal.sol";

/// @dev The calls to a token, for their selectors and encoding.
interface IToken {
    function allowance(address owner, address spender) external view returns (uint256);
    function balanceOf(address account) external view returns (uint256);
    function transfer(address to, uint256 amount) external returns (bool);
    function transferFrom(address from, address to, uint256 amount) external returns (bool);
    function permit(
        address owner,
        address spender,
        uint256 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;
}

/// @title TokenPortal
/// @notice Holds the tokens; see ITokenPortal.
contract TokenPortal is ITokenPortal {
    /// @dev How much of what a token returns is read.
    uint256 private constant _RETURN_BOUND = 256;

    /// @inheritdoc ITokenPortal
    address public immutable psymm;

    /// @dev PSymm makes its own portal.
    constructor() {
        psymm = msg.sender;
    }

    modifier onlyPSymm() {
        if (msg.sender != psymm) revert NotPSymm(msg.sender);
        _;
    }

    /// @inheritdoc ITokenPortal
    function collect(address from, address token, uint256 amount) external onlyPSymm {
        uint256 before = _balance(token);
        _move(token, abi.encodeCall(IToken.transferFrom, (from, address(this), amount)));
        uint256 then = _balance(token);
        unchecked {
            // Without overflow for any answers: the difference must be the amount, upwards.
            if (then < before || then - before != amount) {
                revert TokenMovedOtherAmount(token, amount, before, then);
            }
        }
    }

    /// @inheritdoc ITokenPortal
    function pay(address token, address to, uint256 amount) external onlyPSymm {
        uint256 before = _balance(token);
        _move(token, abi.encodeCall(IToken.transfer, (to, amount)));
        uint256 then = _balance(token);
        unchecked {
            if (then > before || before - then != amount) {
                revert TokenMovedOtherAmount(token, amount, before, then);
            }
        }
    }

    /// @inheritdoc ITokenPortal
    function permit(
        address owner,
        address token,
        uint256 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external onlyPSymm {
        if (token.code.length == 0) revert TokenHasNoCode(token);
        bytes memory data = abi.encodeCall(IToken.permit, (owner, address(this), amount, deadline, v, r, s));
        (bool done,) = _call(token, data);
        if (done) return;
        uint256 allowed = _read(token, abi.encodeCall(IToken.allowance, (owner, address(this))));
        if (allowed < amount) revert PermitFailed(token, owner, allowed, amount);
    }

    /* TALKING TO A TOKEN */

    /// @dev A transfer: nothing may come back, or one word that is true.
    function _move(address token, bytes memory data) private {
        if (token.code.length == 0) revert TokenHasNoCode(token);
        (bool done, bytes memory said) = _call(token, data);
        if (done && (said.length == 0 || (said.length >= 32 && abi.decode(said, (uint256)) == 1))) return;
        revert TokenRefused(token, bytes4(data), said);
    }

    function _balance(address token) private view returns (uint256) {
        return _read(token, abi.encodeCall(IToken.balanceOf, (address(this))));
    }

    /// @dev A view that must give one word.
    function _read(address token, bytes memory data) private view returns (uint256) {
        if (token.code.length == 0) revert TokenHasNoCode(token);
        bool done;
        assembly ("memory-safe") {
            done := staticcall(gas(), token, add(data, 32), mload(data), 0, 0)
        }
        bytes memory said = _said();
        if (done && said.length >= 32) return abi.decode(said, (uint256));
        revert TokenRefused(token, bytes4(data), said);
    }

    function _call(address token, bytes memory data) private returns (bool done, bytes memory said) {
        assembly ("memory-safe") {
            done := call(gas(), token, 0, add(data, 32), mload(data), 0, 0)
        }
        said = _said();
    }

    /// @dev The start of what the last call returned. A token that returns megabytes makes nobody but its
    /// own holders pay for them.
    function _said() private pure returns (bytes memory said) {
        uint256 bound = _RETURN_BOUND;
        assembly ("memory-safe") {
            let length := returndatasize()
            if gt(length, bound) { length := bound }
            said := mload(0x40)
            mstore(said, length)
            returndatacopy(add(said, 32), 0, length)
            mstore(0x40, add(add(said, 32), and(add(length, 31), not(31))))
        }
    }
}
