//! Drawn scenes and their captions: every scene is read back from its pictures, and wrong pictures are told what is wrong.

use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;
use std::collections::HashSet;
use stein_data::{
    DataSet, Shapes, Split,
    shapes::{Agreement, Color, Form, Group, MOST, Relation, Scene, agrees, draw, held_out, read},
};

const RIGHT: Agreement = Agreement { color: true, shape: true, count: true, relation: true };

fn group(count: usize, color: Color, form: Form) -> Group {
    Group { count, color, form }
}

/// The scenes without those that are others as seen from the second group.
fn arrangements() -> impl Iterator<Item = Scene> {
    Scene::all().filter(|scene| !matches!(scene.second(), Some((Relation::Below | Relation::RightOf, _))))
}

/// How many of the pictures of all arrangements are not read as they are drawn.
fn misread(size: usize, seed: u64, change: impl Fn(&mut Vec<f32>, u64) + Sync) -> usize {
    let scenes: Vec<Scene> = arrangements().collect();
    let wrong = |(i, scene): (usize, &Scene)| {
        let seed = seed << 32 | i as u64;
        let mut picture = draw(scene, size, seed);
        change(&mut picture, seed);
        !agrees(scene, &picture).unwrap().all()
    };
    scenes.par_iter().enumerate().filter(|&(i, scene)| wrong((i, scene))).count()
}

/// Normal noise of this standard deviation.
fn noise(picture: &mut [f32], std: f32, seed: u64) {
    use rand_chacha::rand_core::SeedableRng;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    picture.iter_mut().for_each(|value| {
        let z: f32 = StandardNormal.sample(&mut rng);
        *value += std * z;
    });
}

/// The binomial kernel (1, 2, 1)/4 down and across, of standard deviation 0.71 pixels; the border is repeated.
fn blur(picture: &mut [f32]) {
    let size = (picture.len() / 3).isqrt();
    for pixel in [3, 3 * size] {
        let old = picture.to_owned();
        for (at, value) in picture.iter_mut().enumerate() {
            let place = at / pixel % size;
            let before = if place > 0 { at - pixel } else { at };
            let after = if place + 1 < size { at + pixel } else { at };
            *value = (old[before] + 2.0 * old[at] + old[after]) / 4.0;
        }
    }
}

#[test]
fn captions_are_scenes() {
    let scenes: Vec<Scene> = Scene::all().collect();
    // 72 groups; of pairs, five other colors for the second group, and four relations.
    assert_eq!(scenes.len(), 72 + 72 * 60 * 4);
    let captions: HashSet<String> = scenes.iter().map(Scene::to_string).collect();
    assert_eq!(captions.len(), scenes.len());
    for scene in &scenes {
        assert_eq!(scene.to_string().parse(), Ok(*scene));
    }
    let scene =
        Scene::new(group(2, Color::Red, Form::Square), Some((Relation::Above, group(1, Color::Blue, Form::Circle))));
    assert_eq!(scene.as_ref().unwrap().to_string(), "two red squares above a blue circle");
    assert_eq!("Two red squares  above ONE blue circle".parse(), scene);
    for (caption, part) in [
        ("", "no group of shapes"),
        ("two red squares above", "no group of shapes"),
        ("four red squares", "number of shapes called `four`"),
        ("two rad squares", "nearest first: red"),
        ("two red square", "nearest first: squares"),
        ("a red circle above a red square", "two groups are red"),
    ] {
        let sentence = caption.parse::<Scene>().unwrap_err().to_string();
        assert!(sentence.contains(part), "{sentence}");
    }
    assert!(Scene::new(group(0, Color::Red, Form::Square), None).is_err());
    assert!(Scene::new(group(MOST + 1, Color::Red, Form::Square), None).is_err());
}

#[test]
fn about_a_tenth_is_held_out_and_both_parts_have_everything() {
    let held: HashSet<Scene> = held_out().collect();
    let all: Vec<Scene> = Scene::all().collect();
    // Of 8,712 arrangements a tenth by a fair hash is 871 ± 28; five of these, and two captions for most.
    assert!((1460..2030).contains(&held.len()), "{} held out", held.len());
    for scene in &all {
        let Some((relation, second)) = scene.second() else { continue };
        let opposite = [Relation::Below, Relation::Above, Relation::RightOf, Relation::LeftOf][relation as usize];
        let turned = Scene::new(second, Some((opposite, scene.first()))).unwrap();
        assert_eq!(held.contains(scene), held.contains(&turned), "{scene}");
    }
    for part in [true, false] {
        let own = || all.iter().filter(|scene| held.contains(scene) == part);
        let groups = || own().map(Scene::first).chain(own().filter_map(|scene| Some(scene.second()?.1)));
        assert!(Color::ALL.iter().all(|color| groups().any(|group| group.color == *color)));
        assert!(Form::ALL.iter().all(|form| groups().any(|group| group.form == *form)));
        assert!((1..=MOST).all(|count| groups().any(|group| group.count == count)));
        let relations = || own().filter_map(|scene| Some(scene.second()?.0));
        assert!(Relation::ALL.iter().all(|relation| relations().any(|other| other == *relation)));
        assert!(own().any(|scene| scene.second().is_none()));
    }
}

#[test]
fn clean_pictures_are_read_without_an_error() {
    for (size, seed) in [(32, 0), (32, 1), (64, 0), (64, 2)] {
        assert_eq!(misread(size, seed, |_, _| ()), 0, "of 8712 at {size} pixels, seed {seed}");
    }
}

#[test]
fn noise_and_blur_are_borne() {
    for size in [32, 64] {
        let noisy = misread(size, 3, |picture, seed| noise(picture, 0.05, seed));
        let blurred = misread(size, 4, |picture, _| blur(picture));
        let both = misread(size, 5, |picture, seed| {
            blur(picture);
            noise(picture, 0.05, seed);
        });
        // At most one of a thousand of 8712; none is expected.
        assert!(noisy.max(blurred).max(both) <= 8, "{size}: {noisy} noisy, {blurred} blurred, {both} both");
    }
}

/// The scene with one thing changed in every way, and what is then wrong.
fn changed(scene: &Scene) -> Vec<(Scene, Agreement)> {
    let (first, second) = (scene.first(), scene.second());
    let others = |group: Group| {
        let colors = Color::ALL.map(|color| (Group { color, ..group }, Agreement { color: false, ..RIGHT }));
        let forms = Form::ALL.map(|form| (Group { form, ..group }, Agreement { shape: false, ..RIGHT }));
        let counts = [1, 2, 3].map(|count| (Group { count, ..group }, Agreement { count: false, ..RIGHT }));
        colors.into_iter().chain(forms).chain(counts)
    };
    let mut changed: Vec<_> = others(first).map(|(first, wrong)| (Scene::new(first, second), wrong)).collect();
    if let Some((relation, second)) = second {
        changed.extend(others(second).map(|(second, wrong)| (Scene::new(first, Some((relation, second))), wrong)));
        let wrong = Agreement { relation: false, ..RIGHT };
        changed.extend(Relation::ALL.map(|relation| (Scene::new(first, Some((relation, second))), wrong)));
    }
    // Two groups of one color are no scene, and what was changed into itself is no change.
    changed.into_iter().filter_map(|(other, wrong)| Some((other.ok()?, wrong))).filter(|it| it.0 != *scene).collect()
}

#[test]
fn what_is_wrong_is_told_and_nothing_else() {
    let scenes: Vec<Scene> = Scene::all().step_by(37).collect();
    scenes.par_iter().enumerate().for_each(|(i, scene)| {
        for (other, wrong) in changed(scene) {
            let agreement = agrees(scene, &draw(&other, 32, i as u64)).unwrap();
            assert_eq!(agreement, wrong, "{scene}, drawn: {other}");
        }
    });
    // Swapped colors are wrong colors where forms or counts tell the groups apart, else a wrong relation.
    let swapped =
        |scene: &str, drawn: &str| agrees(&scene.parse().unwrap(), &draw(&drawn.parse().unwrap(), 32, 1)).unwrap();
    for (scene, drawn, wrong) in [
        ("a red square above a blue circle", "a blue square above a red circle", Agreement { color: false, ..RIGHT }),
        (
            "two red circles above a blue circle",
            "two blue circles above a red circle",
            Agreement { color: false, ..RIGHT },
        ),
        (
            "a red circle above a blue circle",
            "a blue circle above a red circle",
            Agreement { relation: false, ..RIGHT },
        ),
    ] {
        assert_eq!(swapped(scene, drawn), wrong, "{scene}, drawn: {drawn}");
    }
}

#[test]
fn any_picture_is_read() {
    let scene: Scene = "two red squares above a blue circle".parse().unwrap();
    let size = 32;
    for value in [0.0, 1.0, f32::NAN, f32::INFINITY, -3.0] {
        assert_eq!(agrees(&scene, &vec![value; size * size * 3]), Ok(Agreement::default()));
    }
    // Specks are no shapes, and as many as there may be are no trouble.
    let mut picture = draw(&scene, size, 0);
    assert_eq!(read(&picture).unwrap().len(), 3);
    picture[..6].copy_from_slice(&[0.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
    assert!(agrees(&scene, &picture).unwrap().all());
    let board = |at: usize| {
        if (at / 3 % size / 4 + at / 3 / size / 4).is_multiple_of(2) && at.is_multiple_of(3) { 1.0 } else { 0.0 }
    };
    let board: Vec<f32> = (0..size * size * 3).map(board).collect();
    assert_eq!(read(&board).unwrap().len(), 32);
    assert!(!agrees(&scene, &board).unwrap().count);
    for length in [0, 3 * 32 * 31, 32 * 32] {
        assert!(read(&vec![0.0; length]).unwrap_err().to_string().contains("no square picture"));
    }
}

#[test]
fn the_data_show_what_their_captions_say() {
    let shapes = Shapes { count: 400, seed: 3, ..Shapes::default() };
    for split in [Split::Train, Split::Test] {
        let data = shapes.load(split, None).unwrap();
        assert_eq!((data.len(), data.shape.dims(), data.levels()), (400, vec![32, 32, 3], Some(256)));
        let mut row = vec![0.0; data.dim()];
        let mut one = 0;
        for (i, caption) in data.captions().unwrap().iter().enumerate() {
            let scene: Scene = caption.parse().unwrap();
            data.row(i, &mut row).unwrap();
            assert!(agrees(&scene, &row).unwrap().all(), "{caption}");
            assert_eq!(scene.is_held_out(), split == Split::Test, "{caption}");
            one += usize::from(scene.second().is_none());
        }
        // A quarter is 100 ± 8.7; five of these.
        assert!((57..144).contains(&one), "{one} of one group");
        assert_eq!(data, shapes.load(split, None).unwrap());
        let few = Shapes { count: 7, ..shapes.clone() }.load(split, None).unwrap();
        assert_eq!(few.all_rows().unwrap(), data.rows(&[0, 1, 2, 3, 4, 5, 6]).unwrap());
        assert_eq!(few.captions().unwrap(), &data.captions().unwrap()[..7]);
        assert_ne!(data, Shapes { seed: 4, ..shapes.clone() }.load(split, None).unwrap());
    }
    let said = |shapes: Shapes| shapes.load(Split::Train, None).unwrap_err().to_string();
    assert!(said(Shapes { size: 31, ..Shapes::default() }).contains("shapes: size is 31"));
    assert!(said(Shapes { count: 0, ..Shapes::default() }).contains("shapes: count is 0"));
}
