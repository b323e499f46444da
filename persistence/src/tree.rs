//! The RFC 6962 tree over the records' headers: the frontier that grows it, and proofs over stored hashes.
//!
//! Hashes are stored in the order of Go's `sumdb/tlog` (every leaf's hash, followed by those of the subtrees that it
//! completes), so a store of them is only ever appended to.

use tlog_tiles::{EMPTY_HASH, Hash, HashReader, node_hash};

/// The roots of the perfect subtrees of a tree, largest first: all that is needed to append, and to know the root.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Frontier {
    size: u64,
    // Invariant: one hash per set bit of `size`.
    nodes: Vec<Hash>,
}

impl Frontier {
    /// Takes stored parts; `None` when they cannot belong together.
    pub(crate) fn from_parts(size: u64, nodes: Vec<Hash>) -> Option<Self> {
        (nodes.len() == size.count_ones() as usize).then_some(Self { size, nodes })
    }

    /// How many leaves the tree has.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The subtrees' roots, largest first.
    pub(crate) fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// Appends a leaf; gives every hash that storage gains to `store`, in storage order.
    pub(crate) fn push(&mut self, leaf: Hash, mut store: impl FnMut(Hash)) {
        store(leaf);
        let mut hash = leaf;
        let mut rest = self.size;
        while rest & 1 == 1 {
            // The invariant gives one node per set bit, so this always finds one.
            let Some(left) = self.nodes.pop() else { break };
            hash = node_hash(left, hash);
            store(hash);
            rest >>= 1;
        }
        self.nodes.push(hash);
        self.size += 1;
    }

    /// The root over all leaves.
    pub(crate) fn root(&self) -> Hash {
        let mut nodes = self.nodes.iter().rev();
        let Some(&last) = nodes.next() else {
            return EMPTY_HASH;
        };
        nodes.fold(last, |right, &left| node_hash(left, right))
    }
}

/// Stored hashes in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryHashes(pub(crate) Vec<Hash>);

impl HashReader for MemoryHashes {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, tlog_tiles::Error> {
        indexes
            .iter()
            .map(|&index| {
                usize::try_from(index)
                    .ok()
                    .and_then(|index| self.0.get(index))
                    .copied()
                    .ok_or_else(|| tlog_tiles::Error::InvalidInput("no such hash".into()))
            })
            .collect()
    }
}

/// The root over the first `size` leaves, checked against the `whole` tree.
///
/// # Errors
/// When the stored hashes cannot be read or do not add up to `whole`.
pub(crate) fn root(
    size: u64,
    whole: &Frontier,
    hashes: &impl HashReader,
) -> Result<Hash, tlog_tiles::Error> {
    if size == whole.size() {
        return Ok(whole.root());
    }
    let old = tlog_tiles::tree_hash(size, hashes)?;
    if size > 0 {
        let proof = tlog_tiles::prove_tree(whole.size(), size, hashes)?;
        tlog_tiles::check_tree(&proof, whole.size(), whole.root(), size, old)?;
    }
    Ok(old)
}

/// How many leaves `count` subtrees of `level` levels reach to, from the `first` on; `None` beyond what a tree can have.
pub(crate) fn subtrees_end(level: u8, first: u64, count: u64) -> Option<u64> {
    1_u64
        .checked_shl(u32::from(level))?
        .checked_mul(first.checked_add(count)?)
}

/// The hashes of `count` neighbouring subtrees of `level` levels, from the `first` on. They must be complete.
///
/// # Errors
/// When the stored hashes cannot be read.
pub(crate) fn subtrees(
    level: u8,
    first: u64,
    count: u64,
    hashes: &impl HashReader,
) -> Result<Vec<Hash>, tlog_tiles::Error> {
    let indexes: Vec<u64> = (first..first + count)
        .map(|n| tlog_tiles::stored_hash_index(level, n))
        .collect();
    hashes.read_hashes(&indexes)
}

/// The audit path of leaf `index` in the tree over `size` leaves, checked.
///
/// # Errors
/// As [`root`].
pub(crate) fn inclusion(
    index: u64,
    size: u64,
    whole: &Frontier,
    hashes: &impl HashReader,
) -> Result<Vec<Hash>, tlog_tiles::Error> {
    let root = root(size, whole, hashes)?;
    let leaf = hashes.read_hashes(&[tlog_tiles::stored_hash_index(0, index)])?;
    let proof = tlog_tiles::prove_record(size, index, hashes)?;
    let &[leaf] = leaf.as_slice() else {
        return Err(tlog_tiles::Error::InvalidInput("no such leaf".into()));
    };
    tlog_tiles::check_record(&proof, size, root, index, leaf)?;
    Ok(proof)
}

/// The proof that the tree over `new` leaves continues the one over `old`, checked.
///
/// # Errors
/// As [`root`].
pub(crate) fn consistency(
    old: u64,
    new: u64,
    whole: &Frontier,
    hashes: &impl HashReader,
) -> Result<Vec<Hash>, tlog_tiles::Error> {
    if old == 0 {
        return Ok(Vec::new());
    }
    let (old_root, new_root) = (root(old, whole, hashes)?, root(new, whole, hashes)?);
    let proof = tlog_tiles::prove_tree(new, old, hashes)?;
    tlog_tiles::check_tree(&proof, new, new_root, old, old_root)?;
    Ok(proof)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 6962, section 2.1, word for word.
    fn naive_root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => EMPTY_HASH,
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(naive_root(left), naive_root(right))
            }
        }
    }

    fn grow(leaves: &[Hash]) -> (Frontier, MemoryHashes) {
        let (mut frontier, mut hashes) = (Frontier::default(), MemoryHashes::default());
        for &leaf in leaves {
            frontier.push(leaf, |hash| hashes.0.push(hash));
        }
        (frontier, hashes)
    }

    /// Sizes at which a tile, or a tile of tiles, is about to be full, is full, and is followed by the next.
    const BOUNDARIES: [usize; 11] = [1, 2, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537];

    /// What an auditor does with a proof of inclusion (RFC 9162, section 2.1.3.2).
    fn leads_to(index: usize, size: usize, leaf: Hash, path: &[Hash]) -> Option<Hash> {
        let (mut at, mut last, mut root) = (index, size - 1, leaf);
        for sibling in path {
            if last == 0 {
                return None;
            }
            if at & 1 == 1 || at == last {
                root = node_hash(*sibling, root);
                while at & 1 == 0 && at != 0 {
                    (at, last) = (at >> 1, last >> 1);
                }
            } else {
                root = node_hash(root, *sibling);
            }
            (at, last) = (at >> 1, last >> 1);
        }
        (last == 0).then_some(root)
    }

    #[test]
    fn proofs_hold_at_the_boundaries_of_tiles() {
        let number = |n: usize| u64::try_from(n).unwrap();
        let leaves: Vec<Hash> = (0..70_000_u64)
            .map(|n| tlog_tiles::record_hash(&n.to_le_bytes()))
            .collect();
        let (frontier, hashes) = grow(&leaves);
        let roots: Vec<Hash> = BOUNDARIES.map(|size| naive_root(&leaves[..size])).into();
        for (n, &size) in BOUNDARIES.iter().enumerate() {
            let of_size = number(size);
            assert_eq!(
                super::root(of_size, &frontier, &hashes).unwrap(),
                roots[n],
                "{size}"
            );
            // The first and the last, and those on both sides of every boundary.
            let indexes = BOUNDARIES
                .iter()
                .flat_map(|at| [at - 1, *at])
                .chain([0, size / 2]);
            for index in indexes.filter(|index| *index < size) {
                let path = inclusion(number(index), of_size, &frontier, &hashes).unwrap();
                let told = leads_to(index, size, leaves[index], &path);
                assert_eq!(told, Some(roots[n]), "{index} of {size}");
                let other = leads_to(index, size, leaves[index ^ 1], &path);
                assert_ne!(other, Some(roots[n]), "another leaf at {index} of {size}");
            }
            for (m, &old) in BOUNDARIES[..=n].iter().enumerate() {
                let proof = consistency(number(old), of_size, &frontier, &hashes).unwrap();
                let holds = |new_root, old_root| {
                    tlog_tiles::check_tree(&proof, of_size, new_root, number(old), old_root).is_ok()
                };
                assert!(holds(roots[n], roots[m]), "{old} to {size}");
                if old < size {
                    assert!(!holds(roots[n], roots[n]), "{old} to {size}");
                }
            }
        }
    }

    #[test]
    fn roots_can_be_worked_out_of_tiles_alone() {
        const WIDTH: u64 = 256;
        let count = *BOUNDARIES.last().unwrap() as u64;
        let leaves: Vec<Hash> = (0..count)
            .map(|n| tlog_tiles::record_hash(&n.to_le_bytes()))
            .collect();
        let (_, hashes) = grow(&leaves);
        for size in BOUNDARIES {
            // Level by level: full tiles become a hash of the next one, what is left over hangs to the right of it.
            let (mut width, mut rest) = (u64::try_from(size).unwrap(), Vec::new());
            for level in (0..).step_by(8) {
                let full = width / WIDTH;
                if !width.is_multiple_of(WIDTH) {
                    let left = width % WIDTH;
                    rest.push(subtrees(level, full * WIDTH, left, &hashes).unwrap());
                }
                if full == 0 {
                    break;
                }
                for tile in 0..full {
                    let hashes_of = subtrees(level, tile * WIDTH, WIDTH, &hashes).unwrap();
                    let above = subtrees(level + 8, tile, 1, &hashes).unwrap();
                    assert_eq!(vec![naive_root(&hashes_of)], above, "{level}/{tile}");
                }
                width = full;
            }
            let mut root = None;
            for left in rest {
                // The largest perfect subtrees of a partial tile stand left of what came before, which is smaller.
                let mut parts = Vec::new();
                let mut left = left.as_slice();
                while !left.is_empty() {
                    let (part, others) = left.split_at(1 << left.len().ilog2());
                    parts.push(naive_root(part));
                    left = others;
                }
                for part in parts.into_iter().rev() {
                    root = Some(root.map_or(part, |right| node_hash(part, right)));
                }
            }
            assert_eq!(root, Some(naive_root(&leaves[..size])), "{size}");
        }
    }

    #[test]
    fn roots_are_those_of_the_published_certificate_transparency_vectors() {
        let inputs = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let leaves = inputs.map(|input| tlog_tiles::record_hash(&hex::decode(input).unwrap()));
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        for (size, root) in roots.iter().enumerate() {
            let (frontier, hashes) = grow(&leaves[..=size]);
            assert_eq!(hex::encode(frontier.root().0), *root);
            let again = Frontier::from_parts(frontier.size(), frontier.nodes().to_vec()).unwrap();
            assert_eq!(again, frontier);
            assert_eq!(
                super::root(frontier.size(), &frontier, &hashes).unwrap(),
                frontier.root()
            );
        }
        assert_eq!(Frontier::default().root(), EMPTY_HASH);
        assert_eq!(Frontier::from_parts(3, vec![EMPTY_HASH]), None);
    }

    proptest! {
        #[test]
        fn proofs_lead_to_the_roots_of_a_naive_tree(
            seeds in prop::collection::vec(any::<[u8; 4]>(), 1..200),
            (a, b, c) in any::<(prop::sample::Index, prop::sample::Index, prop::sample::Index)>(),
        ) {
            let leaves: Vec<Hash> = seeds.iter().map(|seed| tlog_tiles::record_hash(seed)).collect();
            let (frontier, hashes) = grow(&leaves);
            prop_assert_eq!(frontier.root(), naive_root(&leaves));
            let size = a.index(leaves.len()) + 1;
            let root = naive_root(&leaves[..size]);
            prop_assert_eq!(super::root(size as u64, &frontier, &hashes).unwrap(), root);
            let index = b.index(size);
            let path = inclusion(index as u64, size as u64, &frontier, &hashes).unwrap();
            tlog_tiles::check_record(&path, size as u64, root, index as u64, leaves[index]).unwrap();
            let old = c.index(size) + 1;
            let proof = consistency(old as u64, size as u64, &frontier, &hashes).unwrap();
            let old_root = naive_root(&leaves[..old]);
            tlog_tiles::check_tree(&proof, size as u64, root, old as u64, old_root).unwrap();
            if old < size {
                let wrong = naive_root(&leaves[..old - 1]);
                prop_assert!(
                    tlog_tiles::check_tree(&proof, size as u64, root, old as u64, wrong).is_err()
                );
            }
        }

        #[test]
        fn a_damaged_hash_never_gives_a_wrong_proof(
            size in 2_u64..100,
            at in any::<prop::sample::Index>(),
            index in any::<prop::sample::Index>(),
        ) {
            let leaves: Vec<Hash> =
                (0..size).map(|n| tlog_tiles::record_hash(&n.to_le_bytes())).collect();
            let (frontier, mut hashes) = grow(&leaves);
            let index = index.index(leaves.len());
            let good = inclusion(index as u64, size, &frontier, &hashes).unwrap();
            let at = at.index(hashes.0.len());
            hashes.0[at].0[5] ^= 1;
            if let Ok(path) = inclusion(index as u64, size, &frontier, &hashes) {
                prop_assert_eq!(path, good);
            }
        }
    }
}
