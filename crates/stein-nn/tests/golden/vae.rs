//! The bounds of variational autoencoders against formulas in PyTorch, with gradients, in f64: `tests/data/vae`.

use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use stein::{
    autoencoder::DiagonalGaussian,
    vae::{Decoding, importance_bound, log_normal},
};
use stein_nn::{Tensors, read_tensors};

struct Stored {
    io: Tensors,
    weights: Tensors,
}

impl Stored {
    fn open() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vae");
        let read = |name: &str| read_tensors(&folder.join(name)).unwrap();
        Self { io: read("io.safetensors"), weights: read("weights.safetensors") }
    }

    fn check<const D: usize>(&self, name: &str, found: Tensor<D>) {
        let wanted: Vec<f64> = self.io[&format!("{name}_f64")].iter().collect();
        let found: Vec<f64> = found.into_data().iter().collect();
        assert_eq!(found.len(), wanted.len(), "{name}");
        let largest = wanted.iter().fold(1.0f64, |most, value| most.max(value.abs()));
        let off = found.iter().zip(&wanted).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
        println!("{name}: {off:.1e} of {largest:.1e}");
        // In f64 only the order of sums differs.
        assert!(off <= 1e-9 * largest, "{name} is off by {off:e} of {largest:e}");
    }
}

fn tensor<const D: usize>(data: &TensorData) -> Tensor<D> {
    Tensor::from_data(data.clone(), (&Device::flex().autodiff(), DType::F64))
}

/// The stored network, whose weights are leaves.
struct Net(Vec<(String, Tensor<2>, Tensor<1>)>);

impl Net {
    fn of(weights: &Tensors) -> Self {
        let layer = |name: &str| {
            let weight = tensor::<2>(&weights[&format!("{name}.weight")]).require_grad();
            (name.to_owned(), weight, tensor::<1>(&weights[&format!("{name}.bias")]).require_grad())
        };
        Self(["enc1", "mean", "logvar", "dec1", "dec2"].map(layer).into())
    }

    fn apply(&self, name: &str, x: Tensor<2>) -> Tensor<2> {
        let (_, weight, bias) = self.0.iter().find(|(own, ..)| own == name).unwrap();
        x.matmul(weight.clone().transpose()) + bias.clone().unsqueeze()
    }
}

#[test]
fn the_bounds_of_variational_autoencoders_are_the_stored_ones() {
    let stored = Stored::open();
    let x = tensor::<2>(&stored.io["x"]);
    let ([rows, dim], decoding) = (x.dims(), Decoding::Bernoulli {});
    for bound in ["elbo", "iwae"] {
        let net = Net::of(&stored.weights);
        let h = net.apply("enc1", x.clone()).tanh();
        let (mean, log_variance) = (net.apply("mean", h.clone()), net.apply("logvar", h));
        let width = mean.dims()[1];
        let eps = tensor::<3>(&stored.io["eps"]);
        let draws = eps.dims()[1];
        let posterior = DiagonalGaussian::new(mean.clone(), log_variance.clone());
        let standard = DiagonalGaussian::new(mean.zeros_like(), mean.zeros_like());
        let (mut of_x, mut of_prior, mut of_posterior, mut decoded) = (vec![], vec![], vec![], vec![]);
        for k in 0..draws {
            let z = posterior.at(eps.clone().narrow(1, k, 1).reshape([rows, width]));
            let outputs = net.apply("dec2", net.apply("dec1", z.clone()).tanh());
            of_x.push(decoding.log_density(&x, outputs.clone()).unwrap());
            of_prior.push(log_normal(z.clone(), z.zeros_like(), z.zeros_like()));
            of_posterior.push(posterior.log_density(z));
            decoded.push(outputs.reshape([rows, 1, dim]));
        }
        let [of_x, of_prior, of_posterior] = [of_x, of_prior, of_posterior].map(|parts| Tensor::cat(parts, 1));
        let kl = posterior.kl();
        let weights = of_x.clone() + of_prior.clone() - of_posterior.clone();
        let value = match bound {
            "elbo" => of_x.clone().mean_dim(1) - kl.clone(),
            _ => importance_bound(weights.clone()),
        };
        stored.check(bound, value.clone());
        if bound == "elbo" {
            stored.check("mean", mean);
            stored.check("logvar", log_variance);
            stored.check("decoded", Tensor::cat(decoded, 1));
            stored.check("log_px", of_x);
            stored.check("log_pz", of_prior);
            stored.check("log_qz", of_posterior);
            stored.check("elbo_mc", weights.mean_dim(1));
            stored.check("kl", posterior.kl_from(&standard));
            stored.check("kl", kl);
        }
        let gradients = value.mean().neg().backward();
        for (name, weight, bias) in &net.0 {
            stored.check(&format!("grad.{bound}.{name}.weight"), weight.grad(&gradients).unwrap());
            stored.check(&format!("grad.{bound}.{name}.bias"), bias.grad(&gradients).unwrap());
        }
    }
}
