//! A registry as a crate declares one, with what a program adds to it.

use serde::{Deserialize, Serialize};
use stein_base::registry;

/// What animals do.
pub trait Speaks: Send + Sync {
    /// A word.
    fn word(&self) -> String;
}

/// A dog.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dog {
    loud: bool,
}

impl Speaks for Dog {
    fn word(&self) -> String {
        if self.loud { "WOOF" } else { "woof" }.to_owned()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parrot {
    says: String,
    #[serde(default)]
    twice: bool,
}

impl Speaks for Parrot {
    fn word(&self) -> String {
        self.says.repeat(1 + usize::from(self.twice))
    }
}

registry! {
    /// Animals.
    Animal, "animal": Speaks {
        /// A dog.
        "dog" => Dog,
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    animal: Animal,
}

#[test]
fn what_is_added_at_run_time_is_read_like_what_is_built_in() {
    let dog: File = toml::from_str("animal = { kind = \"dog\", loud = true }").unwrap();
    assert_eq!((dog.animal.kind(), dog.animal.word().as_str()), ("dog", "WOOF"));
    let parrot = "animal = { kind = \"parrot\", says = \"ha\" }";
    let unknown = toml::from_str::<File>(parrot).err().unwrap().to_string();
    assert!(unknown.contains("there is no animal called `parrot`; known, nearest first: dog"), "{unknown}");
    Animal::register::<Parrot>("parrot");
    let parrot: File = toml::from_str(parrot).unwrap();
    assert_eq!((parrot.animal.kind(), parrot.animal.word().as_str()), ("parrot", "ha"));
    let again: File = toml::from_str(&toml::to_string(&parrot).unwrap()).unwrap();
    assert_eq!(again.animal, parrot.animal);
    assert!(toml::to_string(&parrot).unwrap().contains("twice = false"));
    let misspelled = toml::from_str::<File>("animal = { kind = \"dog\", luod = true }").err().unwrap().to_string();
    assert!(misspelled.contains("known, nearest first: loud"), "{misspelled}");
    assert_eq!(Animal::all().len(), Animal::NAMES.len());
}
