// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @title ITokenPortal
/// @notice Holds the ERC-20 tokens of all notes and moves them for PSymm alone. Depositors approve the
/// portal, never PSymm.
/// @dev Trust: the portal believes PSymm, which created it, and no token. A token is any address with
/// code that somebody names; whatever it does, it can only spoil its own deposits and withdrawals. It is
/// accounted for by its own balance before and after each move, at most 256 bytes of what it returns are
/// read, and nothing here loops over tokens or payees. Tokens whose balances change by themselves
/// (rebasing) or that take a fee when moved are not supported: the deposit is refused, or, if they turn
/// so later, their own withdrawals fail.
interface ITokenPortal {
    /// @notice The caller is not PSymm.
    error NotPSymm(address caller);

    /// @notice There is no contract at the token's address: check the address and the chain.
    error TokenHasNoCode(address token);

    /// @notice The token reverted, or returned something other than nothing or true. For a deposit, check
    /// balance and the portal's allowance.
    /// @param selector What was called: transferFrom, transfer, balanceOf or allowance.
    /// @param reason The first 256 bytes at most of what came back.
    error TokenRefused(address token, bytes4 selector, bytes reason);

    /// @notice The token moved another amount than it was asked to: it takes a fee, rebases or lies.
    error TokenMovedOtherAmount(address token, uint256 amount, uint256 balanceBefore, uint256 balanceAfter);

    /// @notice The permit failed and the allowance in place is too small: sign a new permit or approve.
    error PermitFailed(address token, address owner, uint256 allowance, uint256 amount);

    /// @notice The PSymm contract that this portal belongs to, for good.
    function psymm() external view returns (address);

    /// @notice Brings tokens in; exactly `amount` must arrive. Only by PSymm.
    /// @param from Who pays: always the account that called PSymm.
    /// @param token The ERC-20. May return nothing, or true.
    /// @param amount In the token's units.
    function collect(address from, address token, uint256 amount) external;

    /// @notice Sends tokens out; the portal's balance must fall by exactly `amount`. Only by PSymm.
    /// @dev What the payee's balance does is the payee's affair: a receiver that passes tokens on while
    /// it gets them must not be refused.
    function pay(address token, address to, uint256 amount) external;

    /// @notice Uses an ERC-2612 permit for this portal. Only by PSymm. Somebody may have used the same
    /// permit before, to annoy: then it fails, and that is no fault if the allowance is there.
    function permit(
        address owner,
        address token,
        uint256 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;
}
