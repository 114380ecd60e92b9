//! A registry as a crate declares one, with what a program adds to it.

use serde::{Deserialize, Serialize};
use stein_base::{Explain, explain::Form, registry};

/// What animals do.
pub trait Speaks: Send + Sync {
    /// A word.
    fn word(&self) -> String;
}

/// A dog.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Explain)]
#[serde(default, deny_unknown_fields)]
pub struct Dog {
    /// Whether it is heard.
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
        /// Barks.
        "dog" | "hound" | "canis_lupus" => Dog,
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
    assert!(unknown.contains("there is no animal called `parrot`; known, nearest first: "), "{unknown}");
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

/// Meows.
#[derive(Default, Serialize, Deserialize, Explain)]
struct Cat {
    /// Times, at least 1.
    times: usize,
}

impl Speaks for Cat {
    fn word(&self) -> String {
        "meow".repeat(self.times)
    }
}

/// Says little of itself.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Fish {
    depth: f64,
}

impl Speaks for Fish {
    fn word(&self) -> String {
        String::new()
    }
}

#[test]
fn names_people_type_are_ours_in_files() {
    for typed in ["dog", "Dog", "hound", "HOUND", "canis-lupus", "Canis Lupus"] {
        let file: File = toml::from_str(&format!("animal = {{ kind = \"{typed}\" }}")).unwrap();
        assert!(toml::to_string(&file).unwrap().contains("kind = \"dog\""), "{typed}");
        assert_eq!(Animal::named(typed).unwrap().kind(), "dog");
    }
    assert!(Animal::named("cow").is_err());
    // A name that was added is itself, whatever it is an alias of.
    Animal::register::<Fish>("canislupus");
    assert_eq!(Animal::named("canislupus").unwrap().kind(), "canislupus");
}

#[test]
fn entries_are_explained_by_the_types() {
    Animal::register::<Fish>("fish");
    Animal::register_explained::<Cat>("cat");
    let Form::Choice(animals) = Animal::form() else { panic!("a registry is a choice") };
    let entries = (animals.entries)();
    let entry = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap();
    let (dog, cat, fish) = (entry("dog"), entry("cat"), entry("fish"));
    assert_eq!((dog.meaning.as_str(), dog.details.as_str(), dog.aliases.len()), ("Barks.", "A dog.", 2));
    assert_eq!(
        (dog.keys[0].meaning.as_str(), dog.keys[0].default_text().as_deref()),
        ("Whether it is heard.", Some("false"))
    );
    assert_eq!((cat.meaning.as_str(), cat.keys[0].required()), ("Meows.", true));
    assert_eq!((fish.keys[0].name.as_str(), fish.keys[0].default_text().as_deref()), ("depth", Some("0.0")));
}
