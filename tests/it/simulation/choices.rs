//! The choices of a run: made from a seed, written down, and made again from what was written.

/// Source of every choice. Zero is the choice in which nothing special happens: the same thread goes
/// on, the request succeeds.
pub struct Choices {
    dice: u64,
    /// The choices to make again; after the last one each is zero. `None` for choices from the seed.
    again: Option<Vec<u32>>,
    made: Vec<u32>,
}

impl Choices {
    pub fn of_seed(seed: u64) -> Choices {
        // The first values of the generator are alike for seeds that are alike.
        let dice = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Choices { dice, again: None, made: Vec::new() }
    }

    pub fn again(made: Vec<u32>) -> Choices {
        Choices { again: Some(made), ..Choices::of_seed(0) }
    }

    /// Returns a number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        let value = match &self.again {
            Some(made) => u64::from(made.get(self.made.len()).copied().unwrap_or(0)).min(limit - 1),
            None => self.roll() % limit,
        };
        self.made.push(value as u32);
        value
    }

    /// Returns true once in `times`, never for zero.
    pub fn one_in(&mut self, times: u64) -> bool {
        times > 0 && self.below(times) == times - 1
    }

    /// Random bytes, which are no choice.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.roll() as u8;
        }
    }

    pub fn made(&self) -> &[u32] {
        &self.made
    }

    fn roll(&mut self) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice >> 11
    }
}
