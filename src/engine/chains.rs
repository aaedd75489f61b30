//! Lists of what has a small number: coming, and going from anywhere, costs a few steps and no memory of its own.

const NONE: u32 = u32::MAX;

/// Who stands beside whom. Each number is in one chain at most.
#[derive(Default)]
pub(super) struct Chains(Vec<Link>);

/// In the order of arrival.
#[derive(Clone, Copy)]
pub(crate) struct Chain {
    first: u32,
    last: u32,
}

#[derive(Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
}

impl Default for Chain {
    fn default() -> Self {
        Self { first: NONE, last: NONE }
    }
}

impl Chain {
    pub(super) fn first(self) -> Option<u32> {
        some(self.first)
    }

    pub(super) fn last(self) -> Option<u32> {
        some(self.last)
    }
}

fn some(number: u32) -> Option<u32> {
    (number != NONE).then_some(number)
}

impl Chains {
    /// Who came after it.
    pub(super) fn next(&self, number: u32) -> Option<u32> {
        some(self.0[number as usize].next)
    }

    /// It is in none.
    pub(super) fn append(&mut self, chain: &mut Chain, number: u32) {
        if self.0.len() <= number as usize {
            self.0.resize(number as usize + 1, Link { previous: NONE, next: NONE });
        }
        let previous = std::mem::replace(&mut chain.last, number);
        match previous {
            NONE => chain.first = number,
            previous => self.0[previous as usize].next = number,
        }
        self.0[number as usize] = Link { previous, next: NONE };
    }

    /// It is in this one.
    pub(super) fn remove(&mut self, chain: &mut Chain, number: u32) {
        let Link { previous, next } = self.0[number as usize];
        match previous {
            NONE => chain.first = next,
            previous => self.0[previous as usize].next = next,
        }
        match next {
            NONE => chain.last = previous,
            next => self.0[next as usize].previous = previous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(chains: &mut Chains, mut chain: Chain) -> Vec<u32> {
        let mut all = Vec::new();
        while let Some(first) = chain.first() {
            chains.remove(&mut chain, first);
            all.push(first);
        }
        all
    }

    #[test]
    fn members_leave_in_the_order_of_their_arrival_and_from_anywhere() {
        let (mut chains, mut one, mut other) = (Chains::default(), Chain::default(), Chain::default());
        for number in [4, 0, 7, 2, 5] {
            chains.append(&mut one, number);
        }
        for number in [3, 1] {
            chains.append(&mut other, number);
        }
        for gone in [7, 4, 5] {
            chains.remove(&mut one, gone);
        }
        chains.append(&mut one, 7);
        assert_eq!(
            (one.first(), chains.next(0), one.last(), chains.next(7)),
            (Some(0), Some(2), Some(7), None)
        );
        assert_eq!(all(&mut chains, one), [0, 2, 7]);
        assert_eq!(all(&mut chains, other), [3, 1]);
        assert_eq!(Chain::default().first(), None);
    }
}
