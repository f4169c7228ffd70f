//! Which block of the cache holds what: blocks as guards, and the index by which they are found
//! again.
//!
//! A [`Block`] is a share in one block of the cache; when the last share is dropped, the block is
//! free, and if it was published under its tokens, it stays findable until its memory is needed.
//! Those that were left the longest ago go first, and of one sequence's the last first, so that a
//! block is never found without those before it.
//!
//! A published block is known by its own tokens and the block before it, so that a chain of finds
//! compares every token from the start: what is found is what was asked for, not what hashed alike.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use minerva_compute::KV_BLOCK_LEN;

/// The tokens of a full block.
pub(crate) type BlockTokens = [u32; KV_BLOCK_LEN];

/// All blocks of one cache.
#[derive(Debug, Clone)]
pub(crate) struct BlockPool(Rc<RefCell<Inner>>);

/// A share in one block; dropping it gives the block back.
#[derive(Debug)]
pub(crate) struct Block {
    index: u32,
    pool: Rc<RefCell<Inner>>,
}

/// Blocks, by what they are used for; their sum is the whole cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BlockCounts {
    /// Held by some sequence.
    pub(crate) used: usize,
    /// Held by none, but findable.
    pub(crate) cached: usize,
    /// Empty.
    pub(crate) empty: usize,
}

#[derive(Debug)]
struct Inner {
    entries: Vec<Entry>,
    /// Blocks that hold nothing; the last is taken first, so that memory that was touched is used
    /// again before new pages are.
    empty: Vec<u32>,
    /// Published blocks.
    index: HashMap<Key, u32>,
    /// Published blocks that nobody holds, by the time at which they were left.
    left: BTreeMap<u64, u32>,
    clock: u64,
    next_id: u64,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    n_shares: u32,
    published: Option<Published>,
    left_at: u64,
}

#[derive(Debug, Clone)]
struct Published {
    /// Never given twice, so that a block whose predecessor is gone is not found behind whatever
    /// took its place.
    id: u64,
    key: Key,
}

/// What a published block is found by: the id of the block before it, and its tokens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    before: Option<u64>,
    tokens: BlockTokens,
}

impl BlockPool {
    /// A pool of `n_blocks` empty blocks.
    pub(crate) fn new(n_blocks: usize) -> BlockPool {
        let n = u32::try_from(n_blocks).expect("fewer than 2^32 blocks");
        BlockPool(Rc::new(RefCell::new(Inner {
            entries: vec![Entry::default(); n_blocks],
            empty: (0..n).rev().collect(),
            index: HashMap::new(),
            left: BTreeMap::new(),
            clock: 0,
            next_id: 0,
        })))
    }

    /// A block for new content: an empty one, or the findable one that was left the longest ago.
    /// `None` if all are held.
    pub(crate) fn take(&self) -> Option<Block> {
        let mut inner = self.0.borrow_mut();
        let index = match inner.empty.pop() {
            Some(index) => index,
            None => {
                let (_, index) = inner.left.pop_first()?;
                inner.forget(index);
                index
            }
        };
        inner.entries[index as usize].n_shares = 1;
        Some(Block {
            index,
            pool: self.0.clone(),
        })
    }

    /// The published block with these tokens that follows `before` (`None`: begins a sequence).
    pub(crate) fn find(&self, before: Option<&Block>, tokens: &BlockTokens) -> Option<Block> {
        let mut inner = self.0.borrow_mut();
        let key = inner.key(before, tokens)?;
        let index = *inner.index.get(&key)?;
        inner.share(index);
        Some(Block {
            index,
            pool: self.0.clone(),
        })
    }

    /// Makes a full block findable behind `before`. If another one is published with the same
    /// content, that one is returned, to be used in its place.
    pub(crate) fn publish(
        &self,
        block: Block,
        before: Option<&Block>,
        tokens: &BlockTokens,
    ) -> Block {
        if let Some(same) = self.find(before, tokens) {
            return same;
        }
        let mut inner = self.0.borrow_mut();
        // The block before is published, unless a sequence doesn't publish at all.
        if let Some(key) = inner.key(before, tokens) {
            let id = inner.next_id;
            inner.next_id += 1;
            inner.index.insert(key.clone(), block.index);
            inner.entries[block.index as usize].published = Some(Published { id, key });
        }
        drop(inner);
        block
    }

    /// Forgets what all blocks hold: none is found again.
    pub(crate) fn forget_all(&self) {
        let mut inner = self.0.borrow_mut();
        for index in 0..inner.entries.len() {
            inner.forget(index as u32);
        }
        let left = std::mem::take(&mut inner.left);
        inner.empty.extend(left.into_values());
    }

    /// How many blocks can be taken.
    pub(crate) fn n_available(&self) -> usize {
        let inner = self.0.borrow();
        inner.empty.len() + inner.left.len()
    }

    /// What the blocks are used for.
    pub(crate) fn counts(&self) -> BlockCounts {
        let inner = self.0.borrow();
        let (empty, cached) = (inner.empty.len(), inner.left.len());
        BlockCounts {
            used: inner.entries.len() - empty - cached,
            cached,
            empty,
        }
    }
}

impl Inner {
    fn key(&self, before: Option<&Block>, tokens: &BlockTokens) -> Option<Key> {
        let before = match before {
            None => None,
            Some(block) => Some(self.entries[block.index as usize].published.as_ref()?.id),
        };
        Some(Key {
            before,
            tokens: *tokens,
        })
    }

    fn share(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        if entry.n_shares == 0 {
            self.left.remove(&entry.left_at);
        }
        entry.n_shares += 1;
    }

    fn forget(&mut self, index: u32) {
        if let Some(published) = self.entries[index as usize].published.take() {
            self.index.remove(&published.key);
        }
    }
}

impl Block {
    /// Its place in the cache.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Whether somebody else has it too: then it must not be written to.
    pub(crate) fn is_shared(&self) -> bool {
        self.pool.borrow().entries[self.index as usize].n_shares > 1
    }
}

impl Clone for Block {
    fn clone(&self) -> Block {
        self.pool.borrow_mut().share(self.index);
        Block {
            index: self.index,
            pool: self.pool.clone(),
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut inner = self.pool.borrow_mut();
        let clock = inner.clock;
        let entry = &mut inner.entries[self.index as usize];
        entry.n_shares -= 1;
        if entry.n_shares > 0 {
            return;
        }
        match entry.published {
            None => inner.empty.push(self.index),
            Some(_) => {
                entry.left_at = clock;
                inner.clock += 1;
                inner.left.insert(clock, self.index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(first: u32) -> BlockTokens {
        std::array::from_fn(|i| first + i as u32)
    }

    /// Takes, fills and publishes a chain of blocks.
    fn chain(pool: &BlockPool, contents: &[u32]) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        for &content in contents {
            let block = pool.take().unwrap();
            blocks.push(pool.publish(block, blocks.last(), &tokens(content)));
        }
        blocks
    }

    #[test]
    fn a_block_is_found_behind_the_same_blocks_only() {
        let pool = BlockPool::new(8);
        let blocks = chain(&pool, &[1, 2]);
        let first = pool.find(None, &tokens(1)).unwrap();
        assert_eq!(first.index(), blocks[0].index());
        assert!(first.is_shared());
        assert!(pool.find(None, &tokens(2)).is_none());
        assert!(pool.find(Some(&first), &tokens(1)).is_none());
        let second = pool.find(Some(&first), &tokens(2)).unwrap();
        assert_eq!(second.index(), blocks[1].index());
    }

    #[test]
    fn the_same_content_is_kept_once() {
        let pool = BlockPool::new(8);
        let [a, b] = [chain(&pool, &[1, 2]), chain(&pool, &[1, 2])];
        assert_eq!(
            a.iter().map(Block::index).collect::<Vec<_>>(),
            b.iter().map(Block::index).collect::<Vec<_>>()
        );
        assert_eq!(pool.counts().used, 2);
    }

    #[test]
    fn what_was_left_the_longest_ago_goes_first_and_ends_before_beginnings() {
        let pool = BlockPool::new(4);
        let old = chain(&pool, &[1, 2]);
        let new = chain(&pool, &[5, 6]);
        // The last block first, as a sequence gives its blocks back.
        old.into_iter().rev().for_each(drop);
        new.into_iter().rev().for_each(drop);
        assert_eq!(pool.counts().cached, 4);
        let taken = pool.take().unwrap();
        let first = pool.find(None, &tokens(1)).unwrap();
        assert!(pool.find(Some(&first), &tokens(2)).is_none());
        drop(first);
        let _taken = [taken, pool.take().unwrap()];
        // The find above made [1] the one that was left last.
        let five = pool.find(None, &tokens(5)).unwrap();
        assert!(pool.find(Some(&five), &tokens(6)).is_none());
        assert!(pool.find(None, &tokens(1)).is_some());
    }

    #[test]
    fn a_block_behind_another_one_in_the_same_place_is_not_found() {
        let pool = BlockPool::new(2);
        let [first, second] = <[Block; 2]>::try_from(chain(&pool, &[1, 2])).unwrap();
        drop(first);
        // Takes the place of the first block, while its successor is still held.
        let other = pool.take().unwrap();
        let other = pool.publish(other, None, &tokens(9));
        assert!(pool.find(Some(&other), &tokens(2)).is_none());
        drop((second, other));
        assert_eq!(pool.counts().cached, 2);
    }

    #[test]
    fn all_blocks_come_back() {
        let pool = BlockPool::new(3);
        let blocks = chain(&pool, &[1, 2]);
        let copies = blocks.clone();
        let unpublished = pool.take().unwrap();
        assert!(pool.take().is_none());
        drop((blocks, unpublished));
        let counts = |used, cached, empty| BlockCounts {
            used,
            cached,
            empty,
        };
        assert_eq!(pool.counts(), counts(2, 0, 1));
        drop(copies);
        assert_eq!(pool.counts(), counts(0, 2, 1));
        assert_eq!(pool.n_available(), 3);
        let all: Vec<Block> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(
            (all.len(), pool.find(None, &tokens(1)).is_none()),
            (3, true)
        );
    }
}
