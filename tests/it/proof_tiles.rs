//! Proofs and tiles over HTTP where a tile is about to be full, is full, and is followed by the next, checked by what an
//! auditor needs alone: SHA-256.

use mesh_tests::{Bundle, Client, Daemon};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

type Hash = [u8; 32];

/// Around one and two tiles of 256.
const BOUNDARIES: [usize; 8] = [1, 2, 255, 256, 257, 511, 512, 513];

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::digest([&[1], left.as_slice(), right.as_slice()].concat()).into()
}

/// RFC 9162, 2.1.1.
fn root_of(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node(&root_of(left), &root_of(right))
        }
    }
}

/// RFC 9162, 2.1.3.2.
fn included(index: usize, size: usize, leaf: Hash, path: &[Hash]) -> Option<Hash> {
    let (mut at, mut last, mut root) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            root = node(sibling, &root);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            root = node(&root, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    (last == 0).then_some(root)
}

/// RFC 9162, 2.1.4.2: the old and the new root that a proof leads to.
fn continues(old: usize, new: usize, old_root: Hash, path: &[Hash]) -> Option<(Hash, Hash)> {
    if old == new {
        return path.is_empty().then_some((old_root, old_root));
    }
    let mut path = path.to_vec();
    if old.is_power_of_two() {
        path.insert(0, old_root);
    }
    let (mut at, mut last) = (old - 1, new - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (first, rest) = path.split_first()?;
    let (mut before, mut after) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            before = node(sibling, &before);
            after = node(sibling, &after);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            after = node(&after, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    (last == 0).then_some((before, after))
}

fn hash(text: &Value) -> Hash {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    let bytes = engine.decode(text.as_str().unwrap()).unwrap();
    bytes.try_into().unwrap()
}

fn proof(client: &Client, query: &str) -> (Value, Vec<Hash>) {
    let told = client.get(&format!("/v1/audit/proof?{query}")).ok(200);
    let path = told["path"].as_array().unwrap().iter().map(hash).collect();
    (told, path)
}

fn tile(client: &Client, path: &str) -> Vec<Hash> {
    let answer = client.get(&format!("/v1/audit/tile/{path}"));
    assert_eq!(answer.status, 200, "{path}");
    let hashes = answer.body.chunks_exact(32);
    hashes.map(|hash| hash.try_into().unwrap()).collect()
}

#[test]
fn proofs_and_tiles_hold_at_the_boundaries_of_tiles() {
    let daemon = Daemon::start();
    daemon.deploy(&Bundle::echo("echo"));
    let client = daemon.client();
    let size = || {
        let note = client.get("/v1/audit/checkpoint").text();
        note.lines().nth(1).unwrap().parse::<usize>().unwrap()
    };
    let most = *BOUNDARIES.last().unwrap();
    while size() < most {
        let tasks: Vec<Value> = (0..100)
            .map(|n| json!({"requirements": ["nobody-can"], "input": n}))
            .collect();
        client.post("/v1/tasks", &json!(tasks)).ok(202);
    }
    let leaves = [
        tile(client, "0/000"),
        tile(client, "0/001"),
        tile(client, "0/002.p/1"),
    ]
    .concat();
    assert_eq!(leaves.len(), most);
    assert_eq!(
        tile(client, "1/000.p/2"),
        [root_of(&leaves[..256]), root_of(&leaves[256..512])]
    );
    for (path, status) in [
        ("0/000.p/255", 200),
        ("0/001.p/1", 200),
        ("1/000.p/1", 200),
        ("1/000", 404),
        ("1/000.p/255", 404),
        ("2/000.p/1", 404),
        ("0/255", 404),
    ] {
        let answer = client.get(&format!("/v1/audit/tile/{path}"));
        assert_eq!(answer.status, status, "{path}");
    }
    for size in BOUNDARIES {
        let root = root_of(&leaves[..size]);
        for index in [0, 1, 254, 255, 256, 257, 510, 511, 512] {
            let query = format!("index={index}&size={size}");
            if index >= size {
                let refused = client.get(&format!("/v1/audit/proof?{query}")).status;
                assert!((400..500).contains(&refused), "{query}: {refused}");
                continue;
            }
            let (told, path) = proof(client, &query);
            assert_eq!(hash(&told["root"]), root, "{query}");
            assert_eq!(
                included(index, size, leaves[index], &path),
                Some(root),
                "{query}"
            );
        }
        for old in BOUNDARIES.into_iter().filter(|old| *old <= size) {
            let query = format!("from={old}&to={size}");
            let old_root = root_of(&leaves[..old]);
            let (_, path) = proof(client, &query);
            let told = continues(old, size, old_root, &path);
            assert_eq!(told, Some((old_root, root)), "{query}");
        }
    }
}
