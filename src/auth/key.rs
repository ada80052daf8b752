//! One key that can verify signatures, and how it is made of its numbers. A key is bound to its algorithms when it is made,
//! so a token's header can only choose among keys. This file knows no file, no key set and no token.

use aws_lc_rs::signature::{
    EcdsaVerificationAlgorithm, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use jsonwebtoken::{Algorithm, DecodingKey};

/// The sizes of an RSA modulus that the library verifies with, in bits. RFC 7518 §3.3 asks for 2048 too.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The largest RSA exponent that the library verifies with, in bits.
const EXPONENT_BITS_MAX: usize = 33;

/// The algorithms of an RSA key, the usual one first.
pub(super) const RSA_ALGORITHMS: &[Algorithm] =
    &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

/// One key and its algorithms: one, or the family of the key if its set names none. Never both HMAC and others.
#[derive(Clone)]
pub(super) struct VerifyKey {
    /// The key's id (`kid`); `None` if it has none.
    pub(super) id: Option<String>,
    /// The algorithms that the key may verify.
    pub(super) algorithms: &'static [Algorithm],
    /// The key in the library's form.
    pub(super) key: DecodingKey,
}

/// Makes an RSA key of its two numbers, with or without leading zero octets. Java writes one; RFC 7518 §6.3.1.1 warns of
/// that.
pub(super) fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Result<DecodingKey, String> {
    let (modulus, exponent) = (without_zeros(modulus), without_zeros(exponent));
    let bits = bits(modulus);
    if !RSA_BITS.contains(&bits) {
        return Err(format!("an RSA key must have 2048 to 8192 bits, and this has {bits}"));
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
    if !is_odd(modulus) {
        return Err("its modulus is even, so it is not an RSA key".to_owned());
    }
    if !is_odd(exponent) || exponent == [1] || self::bits(exponent) > EXPONENT_BITS_MAX {
        return Err(format!("its exponent must be odd, above 1 and have at most {EXPONENT_BITS_MAX} bits"));
    }
    let numbers = RsaPublicKeyComponents { n: modulus, e: exponent };
    let parsed = numbers.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256);
    parsed.map_err(|error| format!("not an RSA key that can be used: {error}"))?;
    Ok(DecodingKey::from_rsa_raw_components(modulus, exponent))
}

/// Makes a key on a curve of its uncompressed point.
pub(super) fn ec_key(point: &[u8], curve: &'static EcdsaVerificationAlgorithm) -> Result<DecodingKey, String> {
    ParsedPublicKey::new(curve, point).map_err(|_| "x and y are not a point on its curve".to_owned())?;
    Ok(DecodingKey::from_ec_der(point))
}

/// A big-endian number without leading zero octets.
pub(super) fn without_zeros(number: &[u8]) -> &[u8] {
    let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    &number[first..]
}

fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

/// Whether `name`, in a JOSE header or a key, means the algorithm. RFC 9864 calls EdDSA with that curve Ed25519.
pub(super) fn is_name_of(name: &str, algorithm: Algorithm) -> bool {
    name == name_of(algorithm) || (algorithm == Algorithm::EdDSA && name == "Ed25519")
}

/// The algorithm's name in a JOSE header.
pub(super) fn name_of(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HS256 => "HS256",
        Algorithm::RS256 => "RS256",
        Algorithm::RS384 => "RS384",
        Algorithm::RS512 => "RS512",
        Algorithm::PS256 => "PS256",
        Algorithm::PS384 => "PS384",
        Algorithm::PS512 => "PS512",
        Algorithm::ES256 => "ES256",
        Algorithm::ES384 => "ES384",
        Algorithm::EdDSA => "EdDSA",
        // `keys` makes no key of any other.
        _ => "",
    }
}

/// Whether `name`, in a JOSE header, means an algorithm whose keys are public.
pub(super) fn is_public(name: &str) -> bool {
    let others = [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA];
    RSA_ALGORITHMS.iter().chain(&others).any(|known| is_name_of(name, *known))
}
