//! Networks of NVlabs/edm.

use stein_nn::import::edm;

#[test]
fn song_ddpmpp() {
    crate::compare("edm_song_ddpmpp", |json, weights| Ok(Box::new(edm::open_song(json, weights)?)));
}

#[test]
fn song_ncsnpp() {
    crate::compare("edm_song_ncsnpp", |json, weights| Ok(Box::new(edm::open_song(json, weights)?)));
}

#[test]
fn dhariwal() {
    crate::compare("edm_dhariwal", |json, weights| Ok(Box::new(edm::open_dhariwal(json, weights)?)));
}

#[test]
fn dhariwal_attn() {
    crate::compare("edm_dhariwal_attn", |json, weights| Ok(Box::new(edm::open_dhariwal(json, weights)?)));
}

#[test]
fn unetblock() {
    crate::compare("edm_unetblock", edm::open_blocks);
}
