//! Options the stored fixtures lack, against outputs the reference implementations computed in f64 (PyTorch 2.15, diffusers
//! 0.42.1, NVlabs/edm, score_sde_pytorch).
//!
//! Weights and images are the [`numbers`] of a formula, so that only configs and outputs are stored, in `tests/data/reference`.

use std::{fs, path::Path};

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use serde::Deserialize;
use serde_json::Value;
use stein::{Condition, Context};
use stein_nn::{
    AnyNetwork, NetworkConfig, Tensors,
    import::{self, Imported, Kind, Weights, diffusers_adm, edm, score_sde},
    ops::Dual,
    state,
};

use crate::{
    context,
    published::{Shapes, numbers},
};

#[derive(Deserialize)]
struct Stored {
    config: Value,
    x_shape: [usize; 4],
    timesteps: Vec<f64>,
    class_labels: Option<Vec<u32>>,
    out: Vec<f64>,
}

impl Stored {
    fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reference").join(name).with_extension("json");
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    /// The weights of the formula, under the names and in the shapes of the reference.
    fn weights(&self, kind: Kind, network: &NetworkConfig) -> Tensors {
        let [_, channels, height, width] = self.x_shape;
        let classes = self.class_labels.as_ref().map_or(0, |_| 5);
        let blank: AnyNetwork = network.build(&[height, width, channels], classes, 0, &Device::flex()).unwrap();
        let theirs = import::theirs(kind, &self.config, &state::tensors(&blank)).unwrap();
        let mut shapes = Shapes::default();
        theirs.iter().for_each(|(name, data)| shapes.add(name, &data.shape().to_vec()));
        shapes.weights()
    }

    /// The outputs of a network against those stored, and the gradient of a sum of them against a difference.
    fn holds<N: Module>(&self, imported: Imported<N>, images: impl Fn(&N, Dual<4>, &Context) -> Dual<4>) {
        let device = Device::flex().autodiff();
        let network = state::cast(imported.network, DType::F64);
        let image = |which: usize| -> Tensor<4> {
            let values = numbers(self.x_shape.iter().product(), which, 1.0);
            Tensor::from_data(TensorData::new(values, self.x_shape).convert_dtype(DType::F64), (&device, DType::F64))
        };
        let noise = TensorData::new(self.timesteps.clone(), [self.timesteps.len()]);
        let noise: Tensor<1> = Tensor::from_data(noise, (&device, DType::F64));
        let given = self.class_labels.clone().map_or_else(Condition::none, Condition::classes);
        let run = |x: Tensor<4>| -> Tensor<4> {
            images(&network, x.permute([0, 2, 3, 1]).into(), &context(noise.clone(), &given))
                .value
                .permute([0, 3, 1, 2])
        };
        let x = image(1).require_grad();
        let y = run(x.clone());
        let found: Vec<f64> = y.to_data().iter::<f64>().collect();
        let largest = self.out.iter().fold(0f64, |most, x| most.max(x.abs()));
        assert_eq!(found.len(), self.out.len());
        // What is stored has nine digits, and weights are those of the formula up to the last bit of f32.
        for (found, wanted) in found.iter().zip(&self.out) {
            assert!((found - wanted).abs() <= 1e-6 * largest, "{found} for {wanted}, the largest being {largest}");
        }
        // A loss that no layer is without, and a direction.
        let r = image(3);
        let gradient = x.grad(&(y * r.clone()).sum().backward()).unwrap();
        let along = image(2);
        let loss = |x: Tensor<4>| -> f64 { (run(x) * r.clone()).sum().into_scalar::<f64>() };
        let slope = (gradient * along.clone().inner()).sum().into_scalar::<f64>();
        let step = 1e-5;
        let difference = loss(image(1) + along.clone() * step) - loss(image(1) - along * step);
        let wanted = difference / (2.0 * step);
        assert!((slope - wanted).abs() <= 1e-6 * (1.0 + wanted.abs()), "slope {slope} for {wanted}");
    }
}

#[test]
fn adm_in_the_form_of_diffusers() {
    let stored = Stored::read("unet2d_adm");
    let weights = stored.weights(Kind::Diffusers, &NetworkConfig::Adm(diffusers_adm::config(&stored.config).unwrap()));
    let imported = diffusers_adm::open(&stored.config, Weights::Theirs(&weights)).unwrap();
    stored.holds(imported, |network, x, context| network.images(x, context).unwrap());
}

#[test]
fn edm_with_other_pyramids_and_filters() {
    for name in ["edm_skip", "edm_residual_six_taps"] {
        let stored = Stored::read(name);
        let config = edm::song_config(&stored.config).unwrap();
        let weights = stored.weights(Kind::Edm, &NetworkConfig::SongUnet(config));
        let imported = edm::open_song(&stored.config, Weights::Theirs(&weights)).unwrap();
        stored.holds(imported, |network, x, context| network.images(x, context).unwrap());
    }
}

#[test]
fn score_sde_with_a_pyramid_side_by_side() {
    let stored = Stored::read("score_sde_cat");
    let config = score_sde::ncsnpp_config(&stored.config).unwrap();
    let weights = stored.weights(Kind::ScoreSde, &NetworkConfig::Ncsnpp(config));
    let imported = score_sde::open_ncsnpp(&stored.config, Weights::Theirs(&weights)).unwrap();
    stored.holds(imported, |network, x, context| network.images(x, context).unwrap());
}
