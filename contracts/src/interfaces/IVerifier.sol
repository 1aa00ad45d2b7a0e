// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @title IVerifier
/// @notice What PSymm asks of a verifier that Barretenberg made from a circuit.
interface IVerifier {
    /// @notice Which reference string its proofs rest on: "ignition", Aztec's ceremony, or "dev", whose
    /// secret is published.
    function REFERENCE_STRING() external view returns (string memory);

    /// @notice Checks a zero-knowledge UltraHonk proof (keccak transcript).
    /// @param proof The proof's bytes.
    /// @param publicInputs The circuit's public inputs, in its order, each below the field's modulus.
    /// @return True, if the proof holds. A proof that does not hold makes it revert or return false.
    function verify(bytes calldata proof, bytes32[] calldata publicInputs) external view returns (bool);
}
