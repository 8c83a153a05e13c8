//! CRC-32C (Castagnoli) of bytes put together from parts whose checksums are known.
//!
//! `crc(A then B) = shift(crc(A), length of B) xor crc(B)`, where the shift multiplies by `x^(8 * length)`
//! modulo the polynomial, bits reflected as in zlib's `crc32_combine`. The multiplier of a length is one
//! number, so a batch whose long tail never changes costs the checksum of its short head.

/// The reflected polynomial.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// The product of two polynomials modulo the polynomial of the CRC.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut bit = 1u32 << 31;
    let mut product = 0;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 != 0 {
            (b >> 1) ^ POLYNOMIAL
        } else {
            b >> 1
        };
        bit >>= 1;
    }
    product
}

/// `x^(2^k)` for each k.
const POWERS: [u32; 32] = {
    let mut powers = [0; 32];
    powers[0] = 1 << 30;
    let mut k = 1;
    while k < 32 {
        powers[k] = multiply(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
};

/// The multiplier that moves a checksum past `length` bytes.
pub fn shift_of(mut length: usize) -> u32 {
    let mut product = 1 << 31;
    let mut k = 3;
    while length > 0 {
        if length & 1 != 0 {
            product = multiply(POWERS[k & 31], product);
        }
        length >>= 1;
        k += 1;
    }
    product
}

/// The checksum of two runs of bytes, of which the second has this checksum and this [`shift_of`] its length.
pub fn combine(first: u32, second: u32, shift_of_second: u32) -> u32 {
    multiply(shift_of_second, first) ^ second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_combine_to_the_checksum_of_the_whole() {
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i * 31 % 251) as u8).collect();
        for cut in [0, 1, 16, 61, 4096, 9_999, 10_000] {
            let (a, b) = bytes.split_at(cut);
            let combined = combine(crc32c::crc32c(a), crc32c::crc32c(b), shift_of(b.len()));
            assert_eq!(combined, crc32c::crc32c(&bytes), "cut at {cut}");
        }
    }
}
