// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @dev What a hostile token does to whoever calls it.
enum Mood {
    Plain,
    Reverts,
    ReturnsFalse,
    ReturnsNothing,
    ReturnsTwo,
    ReturnsOneByte,
    ReturnBomb,
    RevertBomb,
    TakesFee,
    MovesMore,
    GivesMore,
    MovesNothing,
    BalanceBomb,
    BalanceReverts,
    BalanceShort,
    BalanceHuge,
    Reenters
}

/// @dev An ERC-20 that can be told to misbehave, in every way that a pool should survive.
contract HostileToken {
    mapping(address account => uint256) public held;
    mapping(address owner => mapping(address spender => uint256)) public allowance;
    Mood public mood;

    address private _target;
    bytes private _data;

    /// @dev What came of calling back while being called.
    bool public reentered;
    bytes public answer;

    function mint(address to, uint256 amount) external {
        held[to] += amount;
    }

    function approve(address spender, uint256 amount) external returns (bool) {
        allowance[msg.sender][spender] = amount;
        return true;
    }

    function turn(Mood mood_) external {
        mood = mood_;
    }

    function aim(address target, bytes calldata data) external {
        (_target, _data) = (target, data);
    }

    function balanceOf(address account) external view returns (uint256) {
        if (mood == Mood.BalanceBomb) _bomb(false);
        if (mood == Mood.BalanceReverts) revert("no balance today");
        if (mood == Mood.BalanceShort) {
            assembly {
                return(0, 31)
            }
        }
        if (mood == Mood.BalanceHuge) {
            return type(uint256).max - uint256(uint160(account)) % 7 - held[account];
        }
        return held[account];
    }

    function transfer(address to, uint256 amount) external returns (bool) {
        return _transfer(msg.sender, to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) external returns (bool) {
        allowance[from][msg.sender] -= amount;
        return _transfer(from, to, amount);
    }

    function _transfer(address from, address to, uint256 amount) private returns (bool) {
        if (mood == Mood.Reverts) revert("not today");
        if (mood == Mood.ReturnsFalse) return false;
        if (mood == Mood.RevertBomb) _bomb(true);
        if (mood == Mood.Reenters) {
            (reentered, answer) = _target.call(_data);
        }
        if (mood == Mood.MovesNothing) return true;
        held[from] -= amount;
        held[to] += mood == Mood.TakesFee ? amount - amount / 100 : amount;
        if (mood == Mood.MovesMore) held[from] -= 1;
        if (mood == Mood.GivesMore) held[to] += 1;
        if (mood == Mood.ReturnBomb) _bomb(false);
        if (mood == Mood.ReturnsNothing) {
            assembly {
                return(0, 0)
            }
        }
        if (mood == Mood.ReturnsTwo) {
            assembly {
                mstore(0, 2)
                return(0, 32)
            }
        }
        if (mood == Mood.ReturnsOneByte) {
            assembly {
                mstore8(0, 1)
                return(0, 1)
            }
        }
        return true;
    }

    /// @dev Half a megabyte of zeros to copy, for whoever copies.
    function _bomb(bool asRevert) private pure {
        assembly {
            if asRevert { revert(0x10000, 0x80000) }
            return(0x10000, 0x80000)
        }
    }
}
