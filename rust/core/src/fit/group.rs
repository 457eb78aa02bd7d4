//! Elements in groups, as the vector units take them. What is here is for loops inside `vectorised!`.

/// Elements that are handled side by side.
pub const LANES: usize = 16;

/// The [`LANES`] elements from `at` on, defaults after the last: so that one loop does whole groups and the rest.
#[inline(always)]
#[must_use]
pub fn group<T: Copy + Default>(values: &[T], at: usize) -> [T; LANES] {
    let rest = &values[at..];
    rest.first_chunk().copied().unwrap_or_else(|| {
        let mut padded = [T::default(); LANES];
        padded[..rest.len()].copy_from_slice(rest);
        padded
    })
}

/// Puts as many of the values as there is room for.
#[inline(always)]
pub fn put<T: Copy>(values: &[T; LANES], out: &mut [T]) {
    match <&mut [T; LANES]>::try_from(&mut *out) {
        Ok(out) => *out = *values,
        Err(_) => out.copy_from_slice(&values[..out.len()]),
    }
}

/// One bit a flag, each of which is 0 or 1; the first in the lowest bit.
#[inline(always)]
#[must_use]
pub fn pack(flags: &[u8; 64]) -> u64 {
    // The product has the low bits of eight bytes side by side at its top.
    let mut bits = 0;
    for (eight, flags) in flags.as_chunks().0.iter().enumerate() {
        let packed = u64::from_le_bytes(*flags).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        bits |= packed << (8 * eight);
    }
    bits
}

/// Calls `visit` with place and value of the few elements of which `wanted`, given the same, is true.
#[inline(always)]
pub fn each_where<T: Copy>(
    values: &[T],
    mut wanted: impl FnMut(usize, T) -> bool,
    mut visit: impl FnMut(usize, T),
) {
    // Flags are set in one loop and looked at in another: so that the first one vectorises.
    let mut flags = [0u8; 256];
    for (number, group) in values.chunks(flags.len()).enumerate() {
        let first = number * flags.len();
        for (e, (flag, &value)) in flags.iter_mut().zip(group).enumerate() {
            *flag = u8::from(wanted(first + e, value));
        }
        flags[group.len()..].fill(0);
        for (number, flags) in flags.as_chunks::<64>().0.iter().enumerate() {
            let mut bits = pack(flags);
            while bits != 0 {
                let e = 64 * number + bits.trailing_zeros() as usize;
                visit(first + e, group[e]);
                bits &= bits - 1;
            }
        }
    }
}
