// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {ITokenPortal} from "./ITokenPortal.sol";
import {IVerifier} from "./IVerifier.sol";

/// @title IPSymm
/// @notice Custody of notes: collateral behind commitments that reveal neither owner nor amount. A note
/// is an amount of one token bound to a custody, which is two wallet keys, terms and a salt.
///
///     address → custody   ATC   whoever pays in           shows token and amount
///     custody → custody   CTC   both keys of the custody   shows neither
///     custody → address   CTA   both keys of the custody   shows token, amount and recipient
///
/// @dev With `H_n` the Poseidon2 sponge over BN254 (see Poseidon2.sol):
///
///     commitment = H3(H2(custodyId, blinding), token, amount)      amount < 2^128
///     nullifier  = H3(commitment, blinding, 1)
///     tree         LeanIMT of H2 with at most 32 levels; every root it ever had is accepted
///
/// Powers: nobody has any. There is no owner, no proxy, no pause, no fee but what the keys of a custody
/// sign. Trust: that Barretenberg's verifiers accept only true statements, which rests on the reference
/// string they were made for. A contract whose verifiers use another than Aztec's Ignition ceremony works
/// on chain id 31337 alone, because whoever knows the secret behind such a string can forge proofs.
///
/// What the keys sign is an EIP-712 digest that this contract computes from the public values, so neither
/// a relayer nor a miner can swap any of them, except `root`, which only says when the proof was made.
interface IPSymm {
    /// @notice A move from custody to custody. All field elements are below the modulus.
    /// @param root A root that the tree had after some move.
    /// @param nullifiers Of the two notes spent; the second may belong to an empty note.
    /// @param commitments Of the two new notes.
    /// @param relayer Who gets the fee, whoever sends; zero if there is none.
    /// @param feeToken The notes' token if there is a fee, else zero, which keeps it hidden.
    /// @param fee In units of that token, below 2^128.
    /// @param deadline Last block time, in seconds, at which the move is valid.
    /// @param memo0 256 bytes for the owner of the first new note.
    /// @param memo1 256 bytes for the owner of the second.
    /// @param proof Of the circuit `ctc`.
    struct CtcCall {
        uint256 root;
        uint256[2] nullifiers;
        uint256[2] commitments;
        address relayer;
        address feeToken;
        uint256 fee;
        uint256 deadline;
        bytes memo0;
        bytes memo1;
        bytes proof;
    }

    /// @notice A move from custody to an address.
    /// @param change Commitment of the note that keeps the rest, in the same custody; always there, its
    /// amount may be 0.
    /// @param amount Leaves the custody, in the token's units: above 0, below 2^128.
    /// @param recipient Gets `amount − fee`.
    /// @param relayer Gets `fee`, whoever sends; zero if and only if the fee is zero.
    /// @param memo 256 bytes for the owner of the change.
    /// @param proof Of the circuit `cta`. The other fields as in `CtcCall`.
    struct CtaCall {
        uint256 root;
        uint256[2] nullifiers;
        uint256 change;
        address token;
        uint256 amount;
        address recipient;
        address relayer;
        uint256 fee;
        uint256 deadline;
        bytes memo;
        bytes proof;
    }

    /// @notice A note entered the tree; every leaf has one, in order of `index` from 0 on.
    event NoteInserted(uint256 indexed index, uint256 commitment, bytes memo);

    /// @notice A note was spent, or an empty one used up.
    event NullifierSpent(uint256 indexed nullifier);

    /// @notice ATC: `amount` came in from `from`.
    event Deposited(address indexed token, address indexed from, uint256 amount, uint256 commitment);

    /// @notice CTA: `amount` left, of which `fee` went to `relayer` and the rest to `recipient`.
    event Withdrawn(
        address indexed token, address indexed recipient, uint256 amount, address relayer, uint256 fee
    );

    /// @notice CTC: `fee` went to `relayer`.
    event FeePaid(address indexed token, address indexed relayer, uint256 fee);

    /// @notice A public input or the note's inner hash is not below the field's modulus.
    error NotInField(uint256 value);

    /// @notice A note's inner hash is zero: it was not computed.
    error InnerZero();

    /// @notice Amounts and fees are below 2^128.
    error AmountTooLarge(uint256 amount);

    /// @notice A deposit or a withdrawal of nothing.
    error AmountZero();

    /// @notice A memo has exactly 256 bytes.
    error MemoLength(uint256 length);

    /// @notice The tree never had this root: prove again under a root that it has.
    error RootUnknown(uint256 root);

    /// @notice The move's last moment has passed; both keys must sign a new one.
    error DeadlinePassed(uint256 deadline, uint256 time);

    /// @notice Relayer, fee and, for CTC, its token are named together or not at all.
    error FeeIncomplete(address relayer, address feeToken, uint256 fee);

    /// @notice The fee is part of the amount and cannot be more.
    error FeeAboveAmount(uint256 fee, uint256 amount);

    /// @notice Nobody could ever use what is paid there: zero, this contract or its portal.
    error PayeeForbidden(address payee);

    /// @notice The note was spent before, or is named twice.
    error NullifierAlreadySpent(uint256 nullifier);

    /// @notice A commitment is never zero.
    error CommitmentZero();

    /// @notice The commitment is in the tree already, or named twice: take another blinding.
    error CommitmentKnown(uint256 commitment);

    /// @notice The tree has its 2^32 leaves, or no room for as many as the move adds. Notes can no longer
    /// be made here.
    error TreeFull(uint256 size);

    /// @notice The verifier does not accept the proof for these public values.
    error ProofInvalid();

    /// @notice There is no contract at the verifier's address.
    error VerifierHasNoCode(address verifier);

    /// @notice The two verifiers were made for different reference strings.
    error ReferenceStringsDiffer(string ctc, string cta);

    /// @notice The verifiers rest on a reference string that is not Ignition's, good for chain 31337 only:
    /// build with the ignition string.
    error DevReferenceString(uint256 chainId);

    /// @notice The call came from inside another one.
    error Reentered();

    /// @notice ATC: pays `amount` of `token` from the sender into a new note. Approve the PORTAL before.
    /// @param token An ERC-20 that moves exactly what it is asked to.
    /// @param amount Above 0, below 2^128.
    /// @param inner H2(custodyId, blinding). Who deposits under a wrong one loses the money: the contract
    /// cannot tell.
    /// @param memo 256 bytes for the note's owner.
    /// @return commitment Of the new note; refused if it was in the tree before.
    function addressToCustody(address token, uint256 amount, uint256 inner, bytes calldata memo)
        external
        returns (uint256 commitment);

    /// @notice The same with an ERC-2612 permit of the sender for the portal over `amount`.
    function addressToCustodyWithPermit(
        address token,
        uint256 amount,
        uint256 inner,
        bytes calldata memo,
        uint256 permitDeadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external returns (uint256 commitment);

    /// @notice CTC: spends two notes of one custody and token for two new ones. Anyone may send it.
    function custodyToCustody(CtcCall calldata call) external;

    /// @notice CTA: spends two notes of one custody and token, pays `amount` out, keeps the rest as a new
    /// note. Anyone may send it.
    function custodyToAddress(CtaCall calldata call) external;

    /// @notice The tree's root now; zero while it is empty.
    function root() external view returns (uint256);

    /// @notice True for every root that the tree had after some move.
    function isKnownRoot(uint256 value) external view returns (bool);

    /// @notice True, if the nullifier was used.
    function isSpent(uint256 nullifier) external view returns (bool);

    /// @notice True, if the commitment is in the tree.
    function isKnownCommitment(uint256 commitment) external view returns (bool);

    /// @notice How many leaves the tree has.
    function size() external view returns (uint256);

    /// @notice The EIP-712 domain: name "pSymm", version "1", this chain, this contract.
    function domainSeparator() external view returns (bytes32);

    /// @notice What both keys sign for a CTC; `root` and `proof` do not matter.
    function ctcDigest(CtcCall calldata call) external view returns (bytes32);

    /// @notice What both keys sign for a CTA; `root` and `proof` do not matter.
    function ctaDigest(CtaCall calldata call) external view returns (bytes32);

    /// @notice Holds the tokens; what depositors approve.
    function portal() external view returns (ITokenPortal);

    /// @notice The verifier of the circuit `ctc`.
    function ctcVerifier() external view returns (IVerifier);

    /// @notice The verifier of the circuit `cta`.
    function ctaVerifier() external view returns (IVerifier);

    /// @notice What the verifiers say of their reference string: "ignition", or "dev".
    function referenceString() external view returns (string memory);
}
