//! Features: the rows that metrics compare, in place of the data themselves.

use stein::{Device, Dual, Kernel, Keys, Result, Tensor, TensorData, classify, ensure, names};
use stein_data::Shape;
use stein_nn::{Inception, Resize, Tower, Vit, import};

use super::{EvaluateOptions, Shipped};

/// The names of features: the numbers themselves, the [classifiers that come with the program](Shipped), FID's Inception-v3 with
/// either of its resizings, and the vision transformers DINOv2 and CLIP, the latter's features of length 1.
pub const FEATURES: [&str; 8] =
    ["none", "digits", "fashion", "cifar", "inception", "inception_tensorflow", "dino", "clip"];

/// The networks whose weights are a file.
enum Imported {
    Inception(Resize),
    Dino,
    Clip,
}

impl Imported {
    /// The file, for a sentence.
    fn weights(&self) -> &'static str {
        match self {
            Self::Inception(_) => "pt_inception-2015-12-05-6726825d.pth, which pytorch-fid publishes,",
            Self::Dino => "dinov2_vits14_pretrain.pth, which facebookresearch/dinov2 publishes, or a larger one,",
            Self::Clip => "the model.safetensors of openai/clip-vit-base-patch32, or a larger one,",
        }
    }
}

/// What a network makes of some rows.
pub(super) struct Extracted {
    /// `[rows, dim]`.
    pub(super) features: Vec<f32>,
    /// What it says of its classes, `[rows, classes]`; empty where it says nothing.
    pub(super) outputs: Vec<f32>,
}

/// A network whose features are compared.
pub(super) trait Extractor {
    /// Its name, with all that changes its numbers.
    fn name(&self) -> String;

    /// Numbers of a row of features.
    fn dim(&self) -> usize;

    /// Classes that it tells apart, if it is a classifier.
    fn classes(&self) -> Option<usize>;

    /// The features of pictures in row order, `[height, width, channels]` each, in [0, 1].
    fn extract(&self, values: &[f32], shape: Shape) -> Result<Extracted>;
}

/// The extractor that is asked for; none for the numbers themselves.
pub(super) fn named(options: &EvaluateOptions, shape: Shape, device: &Device) -> Result<Option<Box<dyn Extractor>>> {
    let name = FEATURES.into_iter().find(|known| names::same(known, &options.features));
    let imported = match name {
        Some("none") => {
            ensure!(
                options.weights.is_none(),
                "--feature-weights is of a network, and --features none compares the numbers themselves: leave it out, or name a network"
            );
            return Ok(None);
        }
        Some(name @ ("digits" | "fashion" | "cifar")) => {
            ensure!(
                options.weights.is_none(),
                "--feature-weights is of a network in a file, and the weights of --features {name} are part of the program: leave it out"
            );
            let shipped = Shipped::named(name, device)?;
            let of = shipped.model.subject.shape;
            ensure!(
                shape == of,
                "--features {name} is for pictures of {}, {of}, and these are {shape}: use none, or a network in a file such as inception",
                shipped.model.subject.name
            );
            return Ok(Some(Box::new(shipped)));
        }
        Some("inception") => Imported::Inception(Resize::Bilinear),
        Some("inception_tensorflow") => Imported::Inception(Resize::Tensorflow),
        Some("dino") => Imported::Dino,
        Some("clip") => Imported::Clip,
        _ => return Err(names::unknown("features", &options.features, &FEATURES)),
    };
    let name = &options.features;
    ensure!(
        matches!(shape, Shape::Image { channels: 1 | 3, .. }),
        "--features {name} is for gray and color pictures, and these are {shape}: use none"
    );
    let Some(path) = &options.weights else {
        return Err(stein::Error::new(format!(
            "--features {name} needs the network's weights: give {} by --feature-weights",
            imported.weights()
        )));
    };
    let unit = matches!(imported, Imported::Clip);
    if let Imported::Inception(resize) = imported {
        let inception = import::inception::load(path, device)?;
        return Ok(Some(Box::new(OfInception { inception, resize, device: device.clone() })));
    }
    let network = import::vit::load(path, device)?;
    ensure!(
        Kind::Mismatch,
        unit == matches!(network.form().tower, Tower::Clip { .. }),
        "{} has the weights of {}, and --features {name} was asked for",
        path.display(),
        if unit { "DINOv2" } else { "CLIP" }
    );
    Ok(Some(Box::new(OfVit { network, unit, device: device.clone() })))
}

impl Extractor for Shipped {
    fn name(&self) -> String {
        let model = &self.model;
        let right = 100.0 * self.accuracy;
        format!("{} (the classifier that comes with the program, right on {right:.2} % of the test data)", model.name)
    }

    fn dim(&self) -> usize {
        self.features
    }

    fn classes(&self) -> Option<usize> {
        Some(self.model.subject.classes.len())
    }

    fn extract(&self, values: &[f32], shape: Shape) -> Result<Extracted> {
        let model = &self.model;
        let keys = Keys::range(0, 0, values.len() / shape.len());
        let states = model.subject.encode(values, &keys, &model.device)?;
        let found = classify(&*self.classifier, states.into(), (&Kernel::CLEAN).into())?;
        let host = |x: Dual<2>| x.value.to_data().iter::<f32>().collect();
        Ok(Extracted { features: host(found.features), outputs: host(found.logits) })
    }
}

/// FID's Inception-v3.
struct OfInception {
    inception: Inception,
    resize: Resize,
    device: Device,
}

impl Extractor for OfInception {
    fn name(&self) -> String {
        match self.resize {
            Resize::Bilinear => "inception (bilinear, as pytorch-fid)".into(),
            Resize::Tensorflow => "inception (TensorFlow's resizing, as torch-fidelity)".into(),
        }
    }

    fn dim(&self) -> usize {
        Inception::FEATURES
    }

    fn classes(&self) -> Option<usize> {
        Some(Inception::CLASSES)
    }

    fn extract(&self, values: &[f32], shape: Shape) -> Result<Extracted> {
        let found = self.inception.features(pictures(values, shape, &self.device)?, self.resize)?;
        let host = |x: Tensor<2>| x.to_data().iter::<f32>().collect();
        Ok(Extracted { features: host(found.pool), outputs: host(found.unbiased_logits) })
    }
}

/// A vision transformer.
struct OfVit {
    network: Vit,
    /// Whether features are brought to length 1.
    unit: bool,
    device: Device,
}

impl Extractor for OfVit {
    fn name(&self) -> String {
        let form = self.network.form();
        let (width, patch, side) = (form.width, form.patch, self.network.side());
        let of = if self.unit { "clip (of length 1, " } else { "dino (DINOv2, " };
        format!("{of}width {width}, blocks {}, squares of {patch}, pictures of {side} x {side})", form.blocks)
    }

    fn dim(&self) -> usize {
        self.network.outputs()
    }

    fn classes(&self) -> Option<usize> {
        None
    }

    fn extract(&self, values: &[f32], shape: Shape) -> Result<Extracted> {
        let found = self.network.features(pictures(values, shape, &self.device)?)?;
        let mut features: Vec<f32> = found.to_data().iter::<f32>().collect();
        if self.unit {
            for row in features.chunks_exact_mut(self.dim()) {
                let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
                row.iter_mut().for_each(|value| *value /= length);
            }
        }
        Ok(Extracted { features, outputs: Vec::new() })
    }
}

/// Pictures `[rows, height, width, 3]` in [−1, 1]; gray ones have three equal channels.
fn pictures(values: &[f32], shape: Shape, device: &Device) -> Result<Tensor<4>> {
    let Shape::Image { height, width, channels } = shape else {
        return Err(stein::Error::new(format!("{shape} are no pictures")));
    };
    let rows = values.len() / shape.len();
    let data = TensorData::new(values.iter().map(|value| 2.0 * value - 1.0).collect(), [rows, height, width, channels]);
    let pictures = Tensor::<4>::from_data(data, device);
    Ok(if channels == 1 { pictures.repeat_dim(3, 3) } else { pictures })
}
