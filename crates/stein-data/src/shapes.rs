//! Pictures of colored shapes with captions that say exactly what they show, and a reader that tells whether they do.
//!
//! A [`Scene`] is one group of alike shapes, "two red squares", or two groups of different colors and where the first lies,
//! "two red squares above a blue circle". [`draw()`] makes a picture of it, [`read()`] finds the shapes of any picture, and
//! [`agrees()`] compares them with a scene: what a model draws for a caption is right or wrong by measurement, with no
//! network to judge it. [`held_out`] scenes, about one of ten, are in no training data.
//!
//! ```
//! use stein_data::shapes::{Scene, agrees, draw};
//!
//! let scene: Scene = "two red squares above a blue circle".parse()?;
//! let picture = draw(&scene, 32, 7);
//! assert_eq!(picture.len(), 32 * 32 * 3);
//! assert!(agrees(&scene, &picture)?.all());
//! let other: Scene = "two red squares above a blue triangle".parse()?;
//! let agreement = agrees(&other, &picture)?;
//! assert!(!agreement.shape && agreement.color && agreement.count && agreement.relation);
//! # Ok::<(), stein_data::Error>(())
//! ```

use crate::{Data, DataSet, Split};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{f64::consts::PI, fmt, ops::Range, path::Path, str::FromStr};
use stein_base::{
    Error, Explain, Key, Purpose, Result, ensure,
    memory::ensure_fits,
    names,
    numbers::ensure_within,
    random::{below, uniform},
};
use xxhash_rust::xxh3::xxh3_64;

/// What a shape is painted with: the corners of the color cube that are neither black, which the ground is, nor white.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Color {
    /// (1, 0, 0)
    Red,
    /// (0, 1, 0)
    Green,
    /// (0, 0, 1)
    Blue,
    /// (1, 1, 0)
    Yellow,
    /// (0, 1, 1)
    Cyan,
    /// (1, 0, 1)
    Magenta,
}

impl Color {
    /// Every color.
    pub const ALL: [Color; 6] = [Color::Red, Color::Green, Color::Blue, Color::Yellow, Color::Cyan, Color::Magenta];

    /// The word for it.
    pub fn name(self) -> &'static str {
        ["red", "green", "blue", "yellow", "cyan", "magenta"][self as usize]
    }

    /// Red, green and blue, each 0 or 1.
    pub fn rgb(self) -> [f32; 3] {
        match self {
            Color::Red => [1.0, 0.0, 0.0],
            Color::Green => [0.0, 1.0, 0.0],
            Color::Blue => [0.0, 0.0, 1.0],
            Color::Yellow => [1.0, 1.0, 0.0],
            Color::Cyan => [0.0, 1.0, 1.0],
            Color::Magenta => [1.0, 0.0, 1.0],
        }
    }

    /// How much of it is in a pixel, in \[0, 1\], and the squared distance to what of the pixel is not it.
    #[allow(clippy::manual_clamp, reason = "`clamp` keeps what is no number, which is nothing here")]
    fn part(self, pixel: &[f32]) -> (f64, f64) {
        let rgb = self.rgb();
        let dot: f32 = pixel.iter().zip(rgb).map(|(p, c)| p * c).sum();
        let part = (dot / rgb.iter().sum::<f32>()).max(0.0).min(1.0);
        let rest: f32 = pixel.iter().zip(rgb).map(|(p, c)| (p - part * c).powi(2)).sum();
        (part.into(), rest.into())
    }
}

/// What a shape is; all are as wide as they are high, and stand upright.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// A disk.
    Circle,
    /// A square with level sides.
    Square,
    /// A triangle with a level base and its tip above the middle of it.
    Triangle,
    /// A plus sign whose bars are a third as wide as they are long.
    Cross,
}

impl Form {
    /// Every form.
    pub const ALL: [Form; 4] = [Form::Circle, Form::Square, Form::Triangle, Form::Cross];

    /// The word for one, and for several.
    pub fn names(self) -> [&'static str; 2] {
        match self {
            Form::Circle => ["circle", "circles"],
            Form::Square => ["square", "squares"],
            Form::Triangle => ["triangle", "triangles"],
            Form::Cross => ["cross", "crosses"],
        }
    }

    /// Whether a point is inside; the form fills [−1, 1]², `v` grows downwards.
    fn holds(self, u: f64, v: f64) -> bool {
        let (a, b) = (u.abs(), v.abs());
        match self {
            Form::Circle => u * u + v * v <= 1.0,
            Form::Square => a.max(b) <= 1.0,
            Form::Triangle => b <= 1.0 && a <= (v + 1.0) / 2.0,
            Form::Cross => a.max(b) <= 1.0 && a.min(b) <= 1.0 / 3.0,
        }
    }

    /// The area, of the square's 4.
    fn area(self) -> f64 {
        match self {
            Form::Circle => PI,
            Form::Square => 4.0,
            Form::Triangle => 2.0,
            Form::Cross => 20.0 / 9.0,
        }
    }

    /// How far below the middle the centroid is.
    fn drop(self) -> f64 {
        if self == Form::Triangle { 1.0 / 3.0 } else { 0.0 }
    }
}

/// Where one group lies, seen from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relation {
    /// Higher.
    Above,
    /// Lower.
    Below,
    /// To the left.
    LeftOf,
    /// To the right.
    RightOf,
}

impl Relation {
    /// Every relation.
    pub const ALL: [Relation; 4] = [Relation::Above, Relation::Below, Relation::LeftOf, Relation::RightOf];

    /// The words for it.
    pub fn name(self) -> &'static str {
        ["above", "below", "left of", "right of"][self as usize]
    }

    /// The axis it is along, 0 across and 1 down, and whether the first has the smaller coordinate.
    fn axis(self) -> (usize, bool) {
        match self {
            Relation::Above => (1, true),
            Relation::Below => (1, false),
            Relation::LeftOf => (0, true),
            Relation::RightOf => (0, false),
        }
    }

    /// Whether it holds between the centers of two groups: every one of the first lies on this side of every one of the
    /// second, and their means differ more along this axis than along the other.
    fn holds(self, first: &[[f64; 2]], second: &[[f64; 2]]) -> bool {
        let (axis, smaller) = self.axis();
        let beyond = |a: &[f64; 2], b: &[f64; 2]| if smaller { a[axis] < b[axis] } else { a[axis] > b[axis] };
        let [along, across] = [axis, 1 - axis].map(|axis| (mean(first, axis) - mean(second, axis)).abs());
        along > across && first.iter().all(|a| second.iter().all(|b| beyond(a, b)))
    }
}

fn mean(places: &[[f64; 2]], axis: usize) -> f64 {
    places.iter().map(|place| place[axis]).sum::<f64>() / places.len() as f64
}

/// Shapes that are alike: "a red circle", "three cyan crosses".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Group {
    /// How many, from 1 to [`MOST`].
    pub count: usize,
    /// Their color.
    pub color: Color,
    /// Their form.
    pub form: Form,
}

/// The most shapes in a group.
pub const MOST: usize = 3;

/// The words for the numbers from 1.
const NUMBERS: [&str; MOST] = ["a", "two", "three"];

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = self.form.names()[usize::from(self.count > 1)];
        write!(f, "{} {} {noun}", NUMBERS[self.count - 1], self.color.name())
    }
}

/// What a picture shows; written out it is the caption, which [parses](str::parse) back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scene {
    first: Group,
    second: Option<(Relation, Group)>,
}

impl Scene {
    /// One group, or the first of two and how it lies to the second.
    ///
    /// # Errors
    /// A count that is not from 1 to [`MOST`], and two groups of one color, which nothing would keep apart.
    pub fn new(first: Group, second: Option<(Relation, Group)>) -> Result<Self> {
        ensure_within("scene: count", first.count, 1..=MOST)?;
        if let Some((_, second)) = second {
            ensure_within("scene: count", second.count, 1..=MOST)?;
            let color = first.color;
            ensure!(color != second.color, "two groups are {}: give each a color of its own", color.name());
        }
        Ok(Self { first, second })
    }

    /// The first group.
    pub fn first(&self) -> Group {
        self.first
    }

    /// How the first group lies to the second, and that, where there are two.
    pub fn second(&self) -> Option<(Relation, Group)> {
        self.second
    }

    /// All scenes, those of one group first: 72, and 17,280 of two groups. Each of the latter is there twice, as seen from either
    /// group.
    pub fn all() -> impl Iterator<Item = Scene> {
        let groups = || {
            let of =
                |color| Form::ALL.into_iter().flat_map(move |form| (1..=MOST).map(move |count| (count, color, form)));
            Color::ALL.into_iter().flat_map(of).map(|(count, color, form)| Group { count, color, form })
        };
        let pairs = move |first: Group| {
            let seconds = groups().filter(move |second| second.color != first.color);
            let related = |second| Relation::ALL.map(|relation| Some((relation, second)));
            seconds.flat_map(related).map(move |second| Scene { first, second })
        };
        groups().map(|first| Scene { first, second: None }).chain(groups().flat_map(pairs))
    }

    /// Whether it is kept from training: where the hash XXH3 of its caption, told with "above" or "left of", is a multiple of
    /// ten. So both captions of one arrangement are held out together.
    pub fn is_held_out(&self) -> bool {
        let told = match self.second {
            Some((Relation::Below, second)) => Scene { first: second, second: Some((Relation::Above, self.first)) },
            Some((Relation::RightOf, second)) => Scene { first: second, second: Some((Relation::LeftOf, self.first)) },
            _ => *self,
        };
        xxh3_64(told.to_string().as_bytes()).is_multiple_of(10)
    }

    fn groups(&self) -> impl Iterator<Item = Group> {
        [self.first].into_iter().chain(self.second.map(|(_, second)| second))
    }
}

/// The scenes that no training data show, about a tenth of [`Scene::all`].
pub fn held_out() -> impl Iterator<Item = Scene> {
    Scene::all().filter(Scene::is_held_out)
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.second {
            None => write!(f, "{}", self.first),
            Some((relation, second)) => write!(f, "{} {} {second}", self.first, relation.name()),
        }
    }
}

/// Captions in any case; "one" is "a".
impl FromStr for Scene {
    type Err = Error;

    fn from_str(caption: &str) -> Result<Self> {
        let words = caption.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
        let split = |relation: Relation| {
            let (first, second) = words.split_once(&format!(" {} ", relation.name()))?;
            Some((first, relation, second))
        };
        match Relation::ALL.into_iter().find_map(split) {
            None => Scene::new(group(&words)?, None),
            Some((first, relation, second)) => Scene::new(group(first)?, Some((relation, group(second)?))),
        }
    }
}

/// A group from three words.
fn group(words: &str) -> Result<Group> {
    let [number, color, noun] = words.split(' ').collect::<Vec<_>>()[..] else {
        let sentence =
            format!("`{words}` is no group of shapes: write a number, a color and a shape, as in `two red squares`");
        return Err(Error::new(sentence));
    };
    let of = |what: &str, word: &str, known: &[&str]| {
        let place = known.iter().position(|known| *known == word);
        place.ok_or_else(|| names::unknown(what, word, known))
    };
    let count = 1 + of("number of shapes", if number == "one" { "a" } else { number }, &NUMBERS)?;
    let color = Color::ALL[of("color", color, &Color::ALL.map(Color::name))?];
    let nouns = Form::ALL.map(|form| form.names()[usize::from(count > 1)]);
    let form = Form::ALL[of(if count > 1 { "shape of several" } else { "shape" }, noun, &nouns)?];
    Ok(Group { count, color, form })
}

/// A shape somewhere in a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object {
    /// Its color.
    pub color: Color,
    /// Its form.
    pub form: Form,
    /// Its centroid across and down, in widths of the picture.
    pub center: [f64; 2],
    /// Its area, in areas of the picture.
    pub area: f64,
}

/// What is free between shapes, and twice what is free at the border, in widths of the picture.
const GAP: f64 = 1.0 / 16.0;

/// The least and largest width of a shape of a group of 1, 2 or 3, in widths of the picture.
const WIDTHS: [Range<f64>; MOST] = [0.26..0.36, 0.26..0.36, 0.23..0.26];

/// A pixel is the mean of so many points on each side.
const POINTS: usize = 4;

/// The part that a form of half the width `half` around `middle` covers of the pixel from (`x`, `y`) to (`x` + 1, `y` + 1);
/// all in pixels.
fn cover(form: Form, middle: [f64; 2], half: f64, [x, y]: [f64; 2]) -> f64 {
    let (x, y) = (x - middle[0], y - middle[1]);
    if x.max(y) > half || x.min(y) + 1.0 < -half {
        return 0.0;
    }
    let holds = |x: f64, y: f64| form.holds(x / half, y / half);
    // Most pixels are all in or all out.
    if holds(x, y) && holds(x + 1.0, y) && holds(x, y + 1.0) && holds(x + 1.0, y + 1.0) {
        return 1.0;
    }
    let at = |point: usize| (2 * point + 1) as f64 / (2 * POINTS) as f64;
    let inside = |point: usize| holds(x + at(point % POINTS), y + at(point / POINTS));
    (0..POINTS * POINTS).filter(|&point| inside(point)).count() as f64 / (POINTS * POINTS) as f64
}

/// The pixels of a side that `low..high` touches.
fn touched(low: f64, high: f64, size: usize) -> Range<usize> {
    low.floor().max(0.0) as usize..(high.ceil().max(0.0) as usize).min(size)
}

/// A picture of a scene: `[size, size, 3]` from the top left, in \[0, 1\], with smooth edges on black. Sizes and places of
/// the shapes are a function of scene and seed alone, whatever `size` is. Shapes are at least 1/16 of the width apart and
/// from 0.23 to 0.36 wide; what a relation says holds for every pair, and between the means it is half as far again as they
/// are apart the other way. Below 32 pixels shapes cannot be told apart.
pub fn draw(scene: &Scene, size: usize, seed: u64) -> Vec<f32> {
    draw_by(scene, size, &mut Key::new(seed, Purpose::Point).generator())
}

fn draw_by(scene: &Scene, size: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut picture = vec![0.0; size * size * 3];
    for (group, places) in scene.groups().zip(arrange(scene, rng)) {
        for (middle, width) in places {
            let (middle, half) = (middle.map(|at| at * size as f64), width * size as f64 / 2.0);
            let [across, down] = middle.map(|at| touched(at - half, at + half, size));
            for y in down {
                for x in across.clone() {
                    let part = cover(group.form, middle, half, [x as f64, y as f64]) as f32;
                    let pixel = &mut picture[(y * size + x) * 3..][..3];
                    pixel.iter_mut().zip(group.color.rgb()).for_each(|(value, color)| *value += part * color);
                }
            }
        }
    }
    picture
}

/// The middle and the width of each shape of each group, in widths of the picture.
fn arrange(scene: &Scene, rng: &mut ChaCha8Rng) -> Vec<Vec<([f64; 2], f64)>> {
    let Some((relation, second)) = scene.second else {
        let axis = below(rng, 2);
        return vec![lay(scene.first.count, axis, 0.0..1.0, rng)];
    };
    let (axis, smaller) = relation.axis();
    loop {
        // Either side has room for the widest shape.
        let middle = 0.43 + 0.14 * uniform(rng);
        let halves = [0.0..middle, middle..1.0];
        let [first, other] = if smaller { [0, 1] } else { [1, 0] }.map(|half| halves[half].clone());
        let groups = [lay(scene.first.count, 1 - axis, first, rng), lay(second.count, 1 - axis, other, rng)];
        let places = [0, 1].map(|group: usize| groups[group].iter().map(|(place, _)| *place).collect::<Vec<_>>());
        let [along, across] = [axis, 1 - axis].map(|axis| (mean(&places[0], axis) - mean(&places[1], axis)).abs());
        if along > 1.5 * across {
            return groups.into();
        }
    }
}

/// Shapes in a row along `axis` through the whole picture, each anywhere in `band` across it, all [`GAP`] from each other
/// and half of it from the border.
fn lay(count: usize, axis: usize, band: Range<f64>, rng: &mut ChaCha8Rng) -> Vec<([f64; 2], f64)> {
    let between = |range: Range<f64>, rng: &mut ChaCha8Rng| range.start + (range.end - range.start) * uniform(rng);
    let widths: Vec<f64> = (0..count).map(|_| between(WIDTHS[count - 1].clone(), rng)).collect();
    // What is left of the row, cut at random places: so much lies before each shape.
    let free = 1.0 - widths.iter().sum::<f64>() - GAP * count as f64;
    let mut cuts: Vec<f64> = (0..count).map(|_| free * uniform(rng)).collect();
    cuts.sort_by(f64::total_cmp);
    let mut before = GAP / 2.0;
    let place = |(width, cut): (f64, f64)| {
        let mut middle = [before + cut + width / 2.0; 2];
        before += width + GAP;
        middle[1 - axis] = between(band.start + (GAP + width) / 2.0..band.end - (GAP + width) / 2.0, rng);
        (middle, width)
    };
    widths.into_iter().zip(cuts).map(place).collect()
}

/// The least area of a shape, in areas of the picture, under half of the smallest that is drawn: less is a speck.
const SPECK: f64 = 0.01;

/// The shapes in a picture, `[size, size, 3]` in \[0, 1\], the largest first.
///
/// A pixel belongs to the color c that it is nearest to a multiple of, p ≈ a c, if a > 1/2 and |p − a c| < 1/2, so that white
/// is none of them. Pixels of a color that touch by
/// their sides are a shape, unless they are a speck. Its form is that whose drawing with the same area and centroid, sharp or
/// blurred by (1, 2, 1)/4 each way, differs least from the values a, by the sum of squares.
///
/// # Errors
/// When the values are no square picture of three channels.
pub fn read(picture: &[f32]) -> Result<Vec<Object>> {
    let size = (picture.len() / 3).isqrt();
    ensure!(
        size > 0 && picture.len() == 3 * size * size,
        "{} values are no square picture of three channels: give [size, size, 3] to read shapes from",
        picture.len()
    );
    let mut colors: Vec<Option<Color>> = picture.as_chunks::<3>().0.iter().map(|pixel| color_of(pixel)).collect();
    let mut objects = Vec::new();
    for start in 0..colors.len() {
        let Some(color) = colors[start].take() else { continue };
        let mut pixels = vec![start];
        let mut seen = 0;
        while let Some(&at) = pixels.get(seen) {
            seen += 1;
            let (x, y) = (at % size, at / size);
            let sides = [
                (x > 0, at.wrapping_sub(1)),
                (x + 1 < size, at + 1),
                (y > 0, at.wrapping_sub(size)),
                (y + 1 < size, at + size),
            ];
            for (_, side) in sides.into_iter().filter(|(inside, _)| *inside) {
                if colors[side] == Some(color) {
                    colors[side] = None;
                    pixels.push(side);
                }
            }
        }
        if pixels.len() as f64 >= SPECK * (size * size) as f64 {
            objects.push(object(picture, size, color, &pixels));
        }
    }
    objects.sort_by(|a: &Object, b| b.area.total_cmp(&a.area));
    Ok(objects)
}

/// Places and their weights: a slight blur, of standard deviation 0.71 pixels.
const BINOMIAL: [(usize, f64); 3] = [(0, 0.25), (1, 0.5), (2, 0.25)];

/// The color of a pixel, unless it is ground.
fn color_of(pixel: &[f32]) -> Option<Color> {
    // How much of a color there is, is a mean of channels, and no more than the largest.
    if pixel.iter().all(|value| *value <= 0.5) {
        return None;
    }
    let parts = Color::ALL.map(|color| (color, color.part(pixel)));
    let (color, (part, rest)) = parts.into_iter().min_by(|a, b| a.1.1.total_cmp(&b.1.1))?;
    (part > 0.5 && rest < 0.25).then_some(color)
}

/// What the pixels of a shape say of it.
fn object(picture: &[f32], size: usize, color: Color, pixels: &[usize]) -> Object {
    // All pixels that it may partly cover.
    let side = |of: fn(usize, usize) -> usize| {
        let (least, most) = pixels.iter().map(|&at| of(at, size)).fold((size, 0), |(a, b), at| (a.min(at), b.max(at)));
        least.saturating_sub(1)..(most + 2).min(size)
    };
    let (across, down) = (side(|at, size| at % size), side(|at, size| at / size));
    let (left, top, width, height) = (across.start, down.start, across.len(), down.len());
    // What each place of the window is, from the top left of the picture, and how much color it has.
    let place = |at: usize| [left + at % width, top + at / width];
    let part = |[x, y]: [usize; 2]| color.part(&picture[(y * size + x) * 3..][..3]).0;
    let parts: Vec<f64> = (0..width * height).map(|at| part(place(at))).collect();
    let area: f64 = parts.iter().sum();
    let moment =
        |axis: usize| parts.iter().enumerate().map(|(at, part)| part * (place(at)[axis] as f64 + 0.5)).sum::<f64>();
    let centroid = [moment(0) / area, moment(1) / area];
    let misfit = |form: Form| -> f64 {
        let half = (area / form.area()).sqrt();
        let middle = [centroid[0] - left as f64, centroid[1] - top as f64 - form.drop() * half];
        // With a border, for the blur.
        let wide = width + 2;
        let pixel = |at: usize| [(at % wide) as f64 - 1.0, (at / wide) as f64 - 1.0];
        let sharp: Vec<f64> = (0..wide * (height + 2)).map(|at| cover(form, middle, half, pixel(at))).collect();
        let soft = |at: usize| -> f64 {
            BINOMIAL.iter().flat_map(|(i, a)| BINOMIAL.map(|(j, b)| a * b * sharp[at + i * wide + j])).sum()
        };
        let (mut sharply, mut softly) = (0.0, 0.0);
        for (at, part) in parts.iter().enumerate() {
            let corner = at / width * wide + at % width;
            sharply += (part - sharp[corner + wide + 1]).powi(2);
            softly += (part - soft(corner)).powi(2);
        }
        sharply.min(softly)
    };
    let forms = Form::ALL.map(|form| (misfit(form), form));
    let (_, form) = forms.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).expect("there are forms");
    Object { color, form, center: centroid.map(|at| at / size as f64), area: area / (size * size) as f64 }
}

/// What of a scene a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Agreement {
    /// Every shape has the color of its group.
    pub color: bool,
    /// Every shape has the form of its group.
    pub shape: bool,
    /// There are as many shapes in every group as there should be.
    pub count: bool,
    /// The groups lie to each other as they should; always so where there is one.
    pub relation: bool,
}

impl Agreement {
    /// Whether the picture is right.
    pub fn all(self) -> bool {
        self == Agreement { color: true, shape: true, count: true, relation: true }
    }
}

/// The most shapes that are looked at, twice as many as there can be.
const LOOKED_AT: usize = 4 * MOST;

/// What of a scene a picture shows: `[size, size, 3]` in \[0, 1\], as [`read()`] has it.
///
/// The shapes that are found are divided into the groups of the scene in the way that makes most of the four true; of ways
/// that make as many true, the one that keeps the colors, then the forms, then the counts. So a picture with one thing wrong
/// is told that thing alone. Where two colors are swapped, the color is wrong if forms or counts tell the groups apart, else
/// the relation: "a red circle above a blue circle" the other way round is below. Where a group has no shape, all four are wrong.
///
/// # Errors
/// When the values are no square picture of three channels.
pub fn agrees(scene: &Scene, picture: &[f32]) -> Result<Agreement> {
    let mut objects = read(picture)?;
    objects.truncate(LOOKED_AT);
    // A bit for each shape: whether it is in the second group.
    let ways = if scene.second.is_some() { 1 << objects.len() } else { 1 };
    let judged = (0..ways).map(|way: usize| judge(scene, &objects, |i| way >> i & 1));
    let rank = |a: &Agreement| {
        let parts = [a.color, a.shape, a.count, a.relation];
        (parts.iter().filter(|part| **part).count(), parts)
    };
    Ok(judged.max_by_key(rank).expect("there is one way at least"))
}

/// What is right where object `i` is in the group `of(i)`.
fn judge(scene: &Scene, objects: &[Object], of: impl Fn(usize) -> usize) -> Agreement {
    let mut agreement = Agreement { color: true, shape: true, count: true, relation: true };
    let mut centers = [Vec::new(), Vec::new()];
    for (i, object) in objects.iter().enumerate() {
        let group = scene.groups().nth(of(i)).expect("an object is in a group of the scene");
        agreement.color &= object.color == group.color;
        agreement.shape &= object.form == group.form;
        centers[of(i)].push(object.center);
    }
    agreement.count = scene.groups().zip(&centers).all(|(group, centers)| centers.len() == group.count);
    agreement.relation = scene.second.is_none_or(|(relation, _)| relation.holds(&centers[0], &centers[1]));
    match scene.groups().zip(&centers).any(|(_, centers)| centers.is_empty()) {
        true => Agreement::default(),
        false => agreement,
    }
}

/// Pictures of colored shapes on black, `[size, size, 3]` with 256 levels, each with a caption that says what it shows: how many
/// shapes of which color and form, and where to others. One picture of four has one group of shapes, the others have two. What is held
/// out shows scenes that are nowhere trained on. Picture `i` depends on (`seed`, split, `i`) only, so a larger `count` begins with the
/// same pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Explain)]
#[serde(deny_unknown_fields, default)]
pub struct Shapes {
    /// Pixels on each side, from 32 to 1024; default 32.
    pub size: usize,
    /// Pictures in each split, at least 1; default 20000.
    pub count: usize,
    /// Seed of the pictures; default 0.
    pub seed: u64,
}

impl Default for Shapes {
    fn default() -> Shapes {
        Shapes { size: 32, count: 20_000, seed: 0 }
    }
}

impl DataSet for Shapes {
    fn load(&self, split: Split, _: Option<&Path>) -> Result<Data> {
        let Shapes { size, count, seed } = *self;
        ensure_within("shapes: size", size, 32..=1024)?;
        ensure_within("shapes: count", count, 1..)?;
        // Pictures as they are drawn and as they are kept.
        let bytes = 6 * count as u128 * (size * size) as u128;
        ensure_fits(&format!("shapes of count = {count} and size = {size}"), bytes)?;
        let own = Scene::all().filter(|scene| scene.is_held_out() == (split == Split::Test));
        let (one, two): (Vec<Scene>, Vec<Scene>) = own.partition(|scene| scene.second.is_none());
        // The step keeps the splits apart.
        let key = Key::new(seed, Purpose::Point).step(split as u64);
        let draw = |i: usize| {
            let mut rng = key.at(i as u64).generator();
            let scenes = if below(&mut rng, 4) == 0 { &one } else { &two };
            let scene = scenes[below(&mut rng, scenes.len())];
            let level = |value: f32| (value * 255.0).round() as u8;
            let picture: Vec<u8> = draw_by(&scene, size, &mut rng).into_iter().map(level).collect();
            (scene.to_string(), picture)
        };
        let (captions, pictures): (Vec<String>, Vec<Vec<u8>>) = (0..count).into_par_iter().map(draw).unzip();
        Data::from_pixels("shapes", [size, size, 3], 256, pictures.concat(), None, Vec::new())?.captioned(captions)
    }
}
