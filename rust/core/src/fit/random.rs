//! Random numbers without a state: each is a function of (seed, tensor, branch, element), so that neither threads nor
//! the order of work can change a mask.
//!
//! The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, doi
//! 10.1145/2063384.2063405). One call gives four numbers, for four neighbouring elements.

use multiversion::multiversion;

/// The random numbers of one branch of one tensor.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    key: [u32; 2],
    order: u64,
}

impl Stream {
    /// The stream of a branch of a tensor under a seed. `place` says which branch: its position in its merge, after the
    /// positions of the merges around that one.
    #[must_use]
    pub fn new(seed: u64, tensor: &str, place: &[usize]) -> Self {
        let mut hasher =
            blake3::Hasher::new_derive_key("branchmerge 2026 random stream of a branch");
        hasher.update(&seed.to_le_bytes()).update(&(place.len() as u64).to_le_bytes());
        for &position in place {
            hasher.update(&(position as u64).to_le_bytes());
        }
        hasher.update(tensor.as_bytes());
        let hash = *hasher.finalize().as_bytes();
        let word =
            |at: usize| u32::from_le_bytes([hash[at], hash[at + 1], hash[at + 2], hash[at + 3]]);
        let order = u64::from(word(8)) | u64::from(word(12)) << 32;
        Self { key: [word(0), word(4)], order }
    }

    /// Uniform 32-bit numbers of the elements from `start` on.
    pub fn uniform(&self, start: u64, out: &mut [u32]) {
        // Four neighbours share a call; a block may begin within the four.
        let before = (start % 4) as usize;
        let head = ((4 - before) % 4).min(out.len());
        let (head, rest) = out.split_at_mut(head);
        let mut four = [0; 4];
        if !head.is_empty() {
            fill(self.key, start / 4, &mut four);
            head.copy_from_slice(&four[before..before + head.len()]);
        }
        fill(self.key, start.div_ceil(4), rest);
    }

    /// A number that decides among equals: a bijection of the element, so that no two elements have the same.
    ///
    /// The mixing is the finalizer of `SplitMix64` (Steele, Lea, Flood, OOPSLA 2014), between two additions of the key.
    #[inline(always)]
    #[must_use]
    pub fn order(&self, element: u64) -> u64 {
        let mut x = element.wrapping_add(self.order).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// How many Philox counters are advanced side by side, for the vector units.
const LANES: usize = 8;

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn fill(key: [u32; 2], first: u64, out: &mut [u32]) {
    for (group, out) in out.chunks_mut(4 * LANES).enumerate() {
        let mut words = [[0u32; LANES]; 4];
        for lane in 0..LANES {
            let counter = first + (group * LANES + lane) as u64;
            words[0][lane] = counter as u32;
            words[1][lane] = (counter >> 32) as u32;
        }
        philox(&mut words, key);
        if out.len() == 4 * LANES {
            for lane in 0..LANES {
                for word in 0..4 {
                    out[lane * 4 + word] = words[word][lane];
                }
            }
        } else {
            for (e, out) in out.iter_mut().enumerate() {
                *out = words[e % 4][e / 4];
            }
        }
    }
}

#[inline(always)]
fn philox(words: &mut [[u32; LANES]; 4], mut key: [u32; 2]) {
    for _ in 0..10 {
        for lane in 0..LANES {
            let left = u64::from(words[0][lane]) * 0xd251_1f53;
            let right = u64::from(words[2][lane]) * 0xcd9e_8d57;
            words[0][lane] = (right >> 32) as u32 ^ words[1][lane] ^ key[0];
            words[2][lane] = (left >> 32) as u32 ^ words[3][lane] ^ key[1];
            words[1][lane] = right as u32;
            words[3][lane] = left as u32;
        }
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        // Known answers of the authors' distribution, Random123 kat_vectors, philox4x32 10.
        let vectors: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in vectors {
            let mut words = counter.map(|word| [word; LANES]);
            philox(&mut words, key);
            assert_eq!(words.map(|word| word[3]), expected);
        }
    }

    #[test]
    fn a_number_belongs_to_its_element_wherever_a_block_begins() {
        let stream = Stream::new(7, "model.norm.weight", &[1]);
        let mut whole = vec![0; 1003];
        stream.uniform(0, &mut whole);
        for start in [1usize, 2, 4, 7, 32, 500, 1002] {
            let mut part = vec![0; 1003 - start];
            stream.uniform(start as u64, &mut part);
            assert_eq!(part, whole[start..]);
        }
    }

    #[test]
    fn streams_are_independent_and_even() {
        let count = 1 << 16;
        let mut streams = vec![];
        for (seed, tensor, branch) in [(0, "a", 0), (0, "a", 1), (0, "b", 0), (1, "a", 0)] {
            let mut out = vec![0; count];
            Stream::new(seed, tensor, &[branch]).uniform(0, &mut out);
            let mean =
                out.iter().map(|&x| f64::from(x)).sum::<f64>() / count as f64 / 2f64.powi(32);
            assert!((mean - 0.5).abs() < 0.005, "{mean}");
            streams.push(out);
        }
        for i in 0..streams.len() {
            for j in 0..i {
                let agree =
                    (0..count).filter(|&e| streams[i][e] >> 31 == streams[j][e] >> 31).count();
                assert!((agree as f64 / count as f64 - 0.5).abs() < 0.01, "{i} {j}: {agree}");
            }
        }
    }
}
