//! How often pictures of shapes show what their captions say, for captions that were never trained on: a model told one text each, at several
//! scales of guidance, read back by `stein_data::shapes`.
//!
//! ```sh
//! cargo run --release -p stein-run --example shapes -- runs/shapes 500 1,2,4
//! ```

use stein::{Device, Error, Result, ensure};
use stein_data::shapes::{Scene, agrees, held_out};
use stein_run::{Changes, Classes, Model, Silent, draw};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = || Error::new("give a model, how many captions, and scales of guidance with commas between them");
    let model = Model::open(arguments.next().ok_or_else(usage)?, &Device::flex())?;
    let count: usize = arguments.next().map_or(Ok(500), |count| count.parse().map_err(|_| usage()))?;
    let scales = arguments.next().unwrap_or_else(|| "1,2,4".to_owned());
    let Some((size, width, 3)) = model.subject.image() else {
        return Err(Error::new(format!("{} makes no pictures in color", model.name)));
    };
    ensure!(size == width, "{} makes pictures of {size} x {width}: they have to be square", model.name);

    // An even part of the captions that are held out.
    let all: Vec<Scene> = held_out().collect();
    let count = count.min(all.len());
    let scenes: Vec<&Scene> = (0..count).map(|i| &all[i * all.len() / count]).collect();
    let texts = Classes::Texts(scenes.iter().map(|scene| scene.to_string()).collect());
    println!("guidance  color  shape  count  relation  all    ({count} of {} captions that were held out)", all.len());
    for scale in scales.split(',') {
        let guidance = scale.trim().parse().map_err(|_| usage())?;
        let config = model.sample.with(&Changes { guidance: Some(guidance), ..Changes::default() })?;
        let drawn = draw(&model, count, 0, &texts, &config, &mut Silent)?;
        let mut right = [0usize; 5];
        for (scene, picture) in scenes.iter().zip(drawn.values.chunks_exact(model.subject.dim())) {
            let found = agrees(scene, picture)?;
            let parts = [found.color, found.shape, found.count, found.relation, found.all()];
            right.iter_mut().zip(parts).for_each(|(right, part)| *right += usize::from(part));
        }
        let [color, shape, number, relation, all] = right.map(|right| 100.0 * right as f64 / count as f64);
        println!("{guidance:<8}  {color:>5.1}  {shape:>5.1}  {number:>5.1}  {relation:>8.1}  {all:>5.1}");
    }
    Ok(())
}
