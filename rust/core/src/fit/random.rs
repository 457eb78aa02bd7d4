//! Random numbers without a state: each is a function of (seed, tensor, branch, element), so that neither threads nor
//! the order of work can change a mask.
//!
//! The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, doi
//! 10.1145/2063384.2063405). One call gives four numbers, for four neighbouring elements.

/// The random numbers of one branch of one tensor.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    key: [u32; 2],
    order: [u32; 2],
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
        Self { key: [word(0), word(4)], order: [word(8), word(12)] }
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

    /// A number that decides among equals: no two elements within 2³² of each other have the same.
    #[inline(always)]
    #[must_use]
    pub fn order(&self, element: u64) -> u32 {
        self.orders(element).at(0)
    }

    /// The numbers that decide among equals, of the elements from `start` on up to the next multiple of 2³².
    #[inline(always)]
    #[must_use]
    pub fn orders(&self, start: u64) -> Orders {
        let high = ((start >> 32) as u32).wrapping_mul(0x9e37_79b9);
        Orders {
            first: (start as u32).wrapping_add(high).wrapping_add(self.order[0]),
            key: self.order[1],
        }
    }
}

/// [`Stream::orders`]: what they begin with is computed once, so that a loop over them has numbers of 32 bits alone.
#[derive(Clone, Copy, Debug)]
pub struct Orders {
    first: u32,
    key: u32,
}

impl Orders {
    /// The number of the element that comes so many after the first.
    ///
    /// The mixing is the finalizer of `MurmurHash3` (Appleby, public domain), with a part of the key between its steps.
    #[inline(always)]
    #[must_use]
    pub fn at(self, further: u32) -> u32 {
        let mut x = self.first.wrapping_add(further);
        x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b).wrapping_add(self.key);
        x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
        x ^ (x >> 16)
    }
}

/// How many of the elements from `start` on lie before the next multiple of 2³², of so many.
#[must_use]
pub fn before_turn(start: u64, count: usize) -> usize {
    ((1u64 << 32) - (start & 0xffff_ffff)).min(count as u64) as usize
}

/// How many Philox counters are advanced in one loop, for the vector units.
const LANES: usize = 64;

vectorised! {
    fn fill(key: [u32; 2], first: u64, out: &mut [u32]) {
        let mut words = [[0; LANES]; 4];
        for (group, out) in out.chunks_mut(4 * LANES).enumerate() {
            let first = first + (group * LANES) as u64;
            for lane in 0..LANES {
                let counter = first + lane as u64;
                let numbers = philox([counter, counter >> 32, 0, 0], key);
                for word in 0..4 {
                    words[word][lane] = numbers[word] as u32;
                }
            }
            let of_lane =
                |lane: usize| [words[0][lane], words[1][lane], words[2][lane], words[3][lane]];
            let (whole, rest) = out.as_chunks_mut::<4>();
            for (lane, out) in whole.iter_mut().enumerate() {
                *out = of_lane(lane);
            }
            rest.copy_from_slice(&of_lane(whole.len() % LANES)[..rest.len()]);
        }
    }
}

/// Four numbers of a counter, each in the lower half of a word: the upper halves hold anything, so that the loop around
/// this vectorises.
#[inline(always)]
fn philox(counter: [u64; 4], mut key: [u32; 2]) -> [u64; 4] {
    let low = |word: u64| word & 0xffff_ffff;
    let [mut a, mut b, mut c, mut d] = counter;
    for _ in 0..10 {
        let (left, right) = (low(a) * 0xd251_1f53, low(c) * 0xcd9e_8d57);
        a = right >> 32 ^ b ^ u64::from(key[0]);
        c = left >> 32 ^ d ^ u64::from(key[1]);
        (b, d) = (right, left);
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    [a, b, c, d]
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
            let words = philox(counter.map(u64::from), key);
            assert_eq!(words.map(|word| word as u32), expected);
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
