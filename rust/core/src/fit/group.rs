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

/// Calls `visit` with place and value of the few elements of which `wanted` is true.
#[inline(always)]
pub fn each_where<T: Copy>(
    values: &[T],
    wanted: impl Fn(T) -> bool,
    mut visit: impl FnMut(usize, T),
) {
    let mut flags = [0u64; 32];
    for (number, group) in values.chunks(8 * flags.len()).enumerate() {
        // Flags are set in one loop and looked at in another: so that the first one vectorises.
        let mut bytes = [0u8; 8 * 32];
        for (flag, &value) in bytes.iter_mut().zip(group) {
            *flag = u8::from(wanted(value));
        }
        for (flags, bytes) in flags.iter_mut().zip(bytes.as_chunks().0) {
            *flags = u64::from_le_bytes(*bytes);
        }
        for (eight, &flags) in flags.iter().enumerate() {
            let mut flags = flags;
            while flags != 0 {
                let e = eight * 8 + flags.trailing_zeros() as usize / 8;
                visit(number * bytes.len() + e, group[e]);
                flags &= flags - 1;
            }
        }
    }
}
