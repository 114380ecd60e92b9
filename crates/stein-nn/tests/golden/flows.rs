//! The layers of normalizing flows against nflows and glow-pytorch, a small flow made of them, and a small Glow whole, from `tests/data/flows`: values,
//! log-determinants both ways, first weights, and gradients.
//!
//! In f64 ours are within [`EXACT`] of the stored values, over the largest; in f32 within the fixture's tolerances, which are ten times what
//! the reference itself is off by in f32.

use std::{fs, path::PathBuf};

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use serde_json::Value;
use stein::Condition;
use stein_nn::{
    Tensors,
    flows::{
        ActNorm, ActNormForm, Bends, ConditionerForm, Coupling, Ends, Flow, FlowLayer, ImageCoupling,
        ImageCouplingKind, InvertibleConv, InvertibleNetwork, LuLinear, Permutation, Spline, Transform,
    },
    import::{self, Kind, Published, Source},
    layers::Init,
    read_tensors, state,
};

/// What the fixtures expect of another implementation in f64: it sums in another order.
const EXACT: f64 = 1e-9;
/// What is below that of the largest is compared as if the largest were this: a determinant near 1 has a logarithm made of rounding.
const SMALL: f64 = 1e-3;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/flows").join(name)
}

struct Stored {
    cases: Value,
    io: Tensors,
    weights: Tensors,
    kind: DType,
}

impl Stored {
    /// The layers, to be computed in both types.
    fn both(check: impl Fn(&Self)) {
        let folder = folder("flow_layers");
        let read = |name: &str| read_tensors(&folder.join(name)).unwrap();
        let fixture: Value = serde_json::from_slice(&fs::read(folder.join("fixture.json")).unwrap()).unwrap();
        for kind in [DType::F64, DType::F32] {
            let cases = fixture["cases"].clone();
            check(&Self { cases, io: read("io.safetensors"), weights: read("weights.safetensors"), kind });
        }
    }

    /// An input.
    fn input<const D: usize>(&self, name: &str) -> Tensor<D> {
        Tensor::from_data(self.io[name].clone().convert_dtype(self.kind), (&device(), self.kind))
    }

    /// An input `[N, C, H, W]` with its channels last.
    fn images(&self, name: &str) -> Tensor<4> {
        self.input::<4>(name).permute([0, 2, 3, 1])
    }

    fn check<const D: usize>(&self, name: &str, found: Tensor<D>) {
        let wanted: Vec<f64> = self.io[&format!("{name}_f64")].iter::<f64>().collect();
        let found: Vec<f64> = found.into_data().iter::<f64>().collect();
        let case = name.split_once('.').unwrap().0;
        let said = &self.cases[case]["outputs"][name];
        let largest = wanted.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        let bound = match self.kind {
            DType::F64 => EXACT * largest.max(SMALL),
            _ => said["suggested_tolerance"]
                .as_f64()
                .unwrap_or_else(|| largest * said["relative_tolerance"].as_f64().unwrap()),
        };
        assert_eq!(found.len(), wanted.len(), "{name}");
        let apart = found.iter().zip(&wanted).fold(0.0, |most: f64, (found, wanted)| {
            let apart = (found - wanted).abs();
            if apart.is_nan() { f64::INFINITY } else { most.max(apart) }
        });
        assert!(apart <= bound, "{name} in {:?} is off by {apart:e} of {largest:e}, bound {bound:e}", self.kind);
    }

    /// Images with their channels first.
    fn check_images(&self, name: &str, found: Tensor<4>) {
        self.check(name, found.permute([0, 3, 1, 2]));
    }

    /// The reference's one number for all images is that of each.
    fn check_each(&self, name: &str, found: Tensor<1>) {
        self.check(name, found.narrow(0, 0, 1));
    }

    /// Weights of a layer by ours and the reference's names.
    fn named(&self, names: &[(&str, &str)]) -> Tensors {
        names.iter().map(|(ours, theirs)| ((*ours).to_owned(), turned(&self.weights[*theirs]))).collect()
    }

    fn load<M: Module>(&self, module: M, weights: &Tensors) -> M {
        state::load(state::cast(module, self.kind), weights).unwrap()
    }

    /// Those of the network of a coupling of two numbers given two.
    fn conditioner(&self, ours: &str, theirs: &str, affine: bool) -> Tensors {
        let mut all = Tensors::new();
        for (own, layer) in [
            ("input", "initial_layer"),
            ("blocks.0.first", "blocks.0.linear_layers.0"),
            ("blocks.0.second", "blocks.0.linear_layers.1"),
            ("output", "final_layer"),
        ] {
            for leaf in ["weight", "bias"] {
                let data = self.weights[&format!("{theirs}.transform_net.{layer}.{leaf}")].clone();
                let data = if affine && layer == "final_layer" { by_number(&data) } else { data };
                all.insert(format!("{ours}conditioner.{own}.{leaf}"), turned(&data));
            }
        }
        all
    }

    /// Those of a linear map in factors.
    fn lu(&self, ours: &str, theirs: &str) -> Tensors {
        let square = |name: &str, lower: bool| {
            let mut entries = self.weights[&format!("{theirs}.{name}")].iter::<f32>();
            let mut all = vec![0f32; FEATURES * FEATURES];
            for row in 0..FEATURES {
                let columns = if lower { 0..row } else { row + 1..FEATURES };
                columns.for_each(|column| all[row * FEATURES + column] = entries.next().unwrap());
            }
            TensorData::new(all, [FEATURES, FEATURES])
        };
        let weights = [
            ("lower", square("lower_entries", true)),
            ("upper", square("upper_entries", false)),
            ("diagonal", self.weights[&format!("{theirs}.unconstrained_upper_diag")].clone()),
            ("bias", self.weights[&format!("{theirs}.bias")].clone()),
        ];
        weights.map(|(name, data)| (format!("{ours}{name}"), data)).into()
    }

    fn act_norm(&self, ours: &str, theirs: &str) -> Tensors {
        [("scale", "log_scale"), ("shift", "shift")]
            .map(|(own, name)| (format!("{ours}{own}"), self.weights[&format!("{theirs}.{name}")].clone()))
            .into()
    }
}

/// Numbers of a row, and the places of those that couplings move.
const FEATURES: usize = 4;
const MOVED: [usize; 2] = [0, 2];

fn device() -> Device {
    Device::flex()
}

fn tracked() -> Device {
    Device::flex().autodiff()
}

/// Their layout of a linear layer, a convolution or a number per channel as ours.
fn turned(data: &TensorData) -> TensorData {
    let tensor = |data: &TensorData| data.clone();
    match data.shape()[..] {
        [_, _] => Tensor::<2>::from_data(tensor(data), &device()).transpose().into_data(),
        [1, channels, 1, 1] => Tensor::<4>::from_data(tensor(data), &device()).reshape([channels]).into_data(),
        [outputs, inputs, 1, 1] => {
            Tensor::<4>::from_data(tensor(data), &device()).reshape([outputs, inputs]).transpose().into_data()
        }
        [_, _, _, _] => Tensor::<4>::from_data(tensor(data), &device()).permute([2, 3, 1, 0]).into_data(),
        _ => tensor(data),
    }
}

/// Rows of a layer whose outputs are all shifts, then all scales, with those of a number beside each other.
fn by_number(data: &TensorData) -> TensorData {
    let (shape, values) = (data.shape().to_vec(), data.iter::<f32>().collect::<Vec<_>>());
    let wide = values.len() / shape[0];
    let half = shape[0] / 2;
    let rows = (0..half).flat_map(|number| [number, half + number]);
    let values = rows.flat_map(|row| values[row * wide..][..wide].to_vec()).collect();
    TensorData::new(values, shape)
}

fn form() -> ConditionerForm {
    ConditionerForm { hidden: 16, blocks: 1, classes: 0 }
}

fn tails() -> Spline {
    Spline::new(5, Ends::Linear { bound: 2.0 }).unwrap()
}

fn coupling(transform: Transform, device: &Device) -> Coupling {
    Coupling::new(FEATURES, MOVED.to_vec(), transform, form(), &mut Init::new(1, device)).unwrap()
}

#[test]
fn splines_are_the_published_ones() {
    Stored::both(|stored| {
        for (case, spline) in [("spline", tails()), ("spline_unit", Spline::new(5, Ends::Unit).unwrap())] {
            let column = |name: &str| stored.input::<1>(&format!("{case}.{name}")).reshape([-1, 1]);
            let leaf = |name: &str| {
                let x = stored.input::<2>(&format!("{case}.{name}"));
                x.clone().reshape([x.dims()[0], 1, x.dims()[1]]).autodiff().require_grad()
            };
            let (widths, heights, derivatives) = (leaf("widths"), leaf("heights"), leaf("derivatives"));
            let bends = || Bends {
                widths: widths.clone().inner(),
                heights: heights.clone().inner(),
                derivatives: derivatives.clone().inner(),
            };
            let (y, log_slope) = spline.forward(column("x"), bends()).unwrap();
            stored.check(&format!("{case}.y"), y.clone());
            stored.check(&format!("{case}.logabsdet"), log_slope);
            let (x, log_slope) = spline.inverse(column("x"), bends()).unwrap();
            stored.check(&format!("{case}.inverse_at_x"), x);
            stored.check(&format!("{case}.inverse_at_x_logabsdet"), log_slope);
            if case == "spline_unit" {
                continue;
            }
            let (x, log_slope) = spline.inverse(y, bends()).unwrap();
            stored.check("spline.inverse_of_y", x);
            stored.check("spline.inverse_logabsdet", log_slope);
            let tracked = Bends { widths: widths.clone(), heights: heights.clone(), derivatives: derivatives.clone() };
            let (y, log_slope) = spline.forward(column("x").autodiff(), tracked).unwrap();
            let gradients = (y + log_slope).sum().backward();
            for (name, leaf) in [("widths", widths), ("heights", heights), ("derivatives", derivatives)] {
                stored.check(&format!("spline.grad.{name}"), leaf.grad(&gradients).unwrap());
            }
        }
    });
}

#[test]
fn layers_of_rows_are_the_published_ones() {
    Stored::both(|stored| {
        let given = Condition::none();
        let x = |case: &str| stored.input::<2>(&format!("{case}.x"));
        let check = |case: &str, [(y, forward), (x, back)]: [(Tensor<2>, Tensor<1>); 2]| {
            stored.check(&format!("{case}.y"), y);
            stored.check(&format!("{case}.logabsdet"), forward);
            stored.check(&format!("{case}.inverse_at_x"), x);
            stored.check(&format!("{case}.inverse_at_x_logabsdet"), back);
        };
        for (case, theirs, transform) in
            [("affine", "affine", Transform::Affine), ("spline_coupling", "spline", Transform::Spline(tails()))]
        {
            let affine = transform == Transform::Affine;
            let layer = stored.load(coupling(transform, &device()), &stored.conditioner("", theirs, affine));
            check(case, [layer.forward(x(case), &given).unwrap(), layer.inverse(x(case), &given).unwrap()]);
        }
        let layer = stored.load(LuLinear::new(FEATURES, &mut Init::new(1, &device())), &stored.lu("", "lu"));
        check("lu", [layer.forward(x("lu")).unwrap(), layer.inverse(x("lu")).unwrap()]);
        stored.check("lu.matrix", layer.matrix());

        let fresh = ActNorm::new(FEATURES, ActNormForm::Exponential, &mut Init::new(1, &device()));
        let fresh = state::cast(fresh, stored.kind);
        let layer = stored.load(fresh.clone(), &stored.act_norm("", "actnorm"));
        check("actnorm", [layer.forward(x("actnorm")), layer.inverse(x("actnorm"))]);
        let layer = fresh.initialized(&x("actnorm_init")).unwrap();
        stored.check("actnorm_init.y", layer.forward(x("actnorm_init")).0);
        let weights = state::tensors(&layer);
        for (ours, theirs) in [("scale", "log_scale"), ("shift", "shift")] {
            let found = Tensor::<1>::from_data(weights[ours].clone(), (&device(), stored.kind));
            stored.check(&format!("actnorm_init.{theirs}"), found);
        }
    });
}

#[test]
fn layers_of_images_are_the_published_ones() {
    Stored::both(|stored| {
        let x = |case: &str| stored.images(&format!("{case}.x"));
        let fresh = ActNorm::new(FEATURES, ActNormForm::Published, &mut Init::new(1, &device()));
        let fresh = state::cast(fresh, stored.kind);
        let names = [("scale", "glow_actnorm.scale"), ("shift", "glow_actnorm.loc")];
        let layer = stored.load(fresh.clone(), &stored.named(&names));
        let (y, log_det) = layer.forward(x("glow_actnorm"));
        stored.check_images("glow_actnorm.y", y);
        stored.check_each("glow_actnorm.logdet", log_det);
        stored.check_images("glow_actnorm.inverse_at_x", layer.inverse(x("glow_actnorm")).0);

        let layer = fresh.initialized(&x("glow_actnorm_init")).unwrap();
        let (y, log_det) = layer.forward(x("glow_actnorm_init"));
        stored.check_images("glow_actnorm_init.y", y);
        stored.check_each("glow_actnorm_init.logdet", log_det);
        let weights = state::tensors(&layer);
        for (ours, theirs) in [("scale", "scale"), ("shift", "loc")] {
            let found = Tensor::<1>::from_data(weights[ours].clone(), (&device(), stored.kind));
            stored.check(&format!("glow_actnorm_init.{theirs}"), found);
        }

        let factors =
            [("permutation", "w_p"), ("lower", "w_l"), ("upper", "w_u"), ("log_scale", "w_s"), ("sign", "s_sign")];
        let factors =
            factors.map(|(own, theirs)| (own.to_owned(), stored.weights[&format!("glow_invconv_lu.{theirs}")].clone()));
        for (case, lu, weights) in [
            ("glow_invconv_lu", true, factors.into()),
            ("glow_invconv", false, stored.named(&[("weight", "glow_invconv.weight")])),
        ] {
            let layer = InvertibleConv::new(FEATURES, lu, &mut Init::new(1, &device()));
            let layer = stored.load(layer, &weights);
            let (y, log_det) = layer.forward(x(case)).unwrap();
            stored.check_images(&format!("{case}.y"), y);
            stored.check_each(&format!("{case}.logdet"), log_det);
            stored.check_images(&format!("{case}.inverse_at_x"), layer.inverse(x(case)).unwrap().0);
            if lu {
                stored.check("glow_invconv_lu.matrix", layer.matrix());
            }
        }

        let layer = ImageCoupling::new(FEATURES, 12, ImageCouplingKind::Affine, &mut Init::new(1, &device()));
        let layer = stored.load(
            layer,
            &stored.named(&[
                ("first.weight", "glow_coupling.net.0.weight"),
                ("first.bias", "glow_coupling.net.0.bias"),
                ("second.weight", "glow_coupling.net.2.weight"),
                ("second.bias", "glow_coupling.net.2.bias"),
                ("last.conv.weight", "glow_coupling.net.4.conv.weight"),
                ("last.conv.bias", "glow_coupling.net.4.conv.bias"),
                ("last.scale", "glow_coupling.net.4.scale"),
            ]),
        );
        let (y, log_det) = layer.forward(x("glow_coupling"));
        stored.check_images("glow_coupling.y", y);
        stored.check("glow_coupling.logdet", log_det);
        stored.check_images("glow_coupling.inverse_at_x", layer.inverse(x("glow_coupling")).0);
    });
}

#[test]
fn a_flow_of_them_is_the_published_one() {
    Stored::both(|stored| {
        let (given, device) = (Condition::none(), tracked());
        let init = &mut Init::new(1, &device);
        let layers = vec![
            FlowLayer::Coupling(coupling(Transform::Affine, &device)),
            FlowLayer::Permutation(Permutation::reverse(FEATURES, init)),
            FlowLayer::Coupling(coupling(Transform::Spline(tails()), &device)),
            FlowLayer::Lu(LuLinear::new(FEATURES, init)),
            FlowLayer::ActNorm(ActNorm::new(FEATURES, ActNormForm::Exponential, init)),
        ];
        let mut weights = stored.conditioner("layers.0.", "flow._transforms.0", true);
        let order = stored.weights["flow._transforms.1._permutation"].clone().convert_dtype(DType::F32);
        weights.insert("layers.1.order".to_owned(), order);
        weights.extend(stored.conditioner("layers.2.", "flow._transforms.2", false));
        weights.extend(stored.lu("layers.3.", "flow._transforms.3"));
        weights.extend(stored.act_norm("layers.4.", "flow._transforms.4"));
        let flow = stored.load(Flow::of(layers, FEATURES, 0), &weights);
        let plain = flow.valid();
        let x = stored.input::<2>("flow.x");
        let (z, log_det) = plain.forward(x.clone(), &given).unwrap();
        stored.check("flow.noise", z);
        stored.check("flow.logabsdet", log_det);
        stored.check("flow.log_prob", plain.log_prob(x.clone(), &given).unwrap());
        stored.check("flow_sample.x", plain.decode(stored.input("flow_sample.noise"), &given).unwrap());

        let loss = -flow.log_prob(x.autodiff(), &given).unwrap().mean();
        let gradients = state::gradients(&flow, &loss.backward());
        for (ours, theirs) in [
            ("layers.0.conditioner.input.weight", "_transforms.0.transform_net.initial_layer.weight"),
            ("layers.2.conditioner.output.bias", "_transforms.2.transform_net.final_layer.bias"),
            ("layers.3.diagonal", "_transforms.3.unconstrained_upper_diag"),
            ("layers.4.scale", "_transforms.4.log_scale"),
        ] {
            let data = &gradients[ours];
            let found = match data.shape()[..] {
                [_, _] => {
                    Tensor::<2>::from_data(data.clone(), (&self::device(), stored.kind)).transpose().reshape([-1])
                }
                _ => Tensor::<1>::from_data(data.clone(), (&self::device(), stored.kind)),
            };
            stored.check(&format!("flow.grad.{theirs}"), found);
        }
    });
}

#[test]
fn a_small_glow_is_the_published_one() {
    let folder = folder("glow_tiny");
    let fixture: Value = serde_json::from_slice(&fs::read(folder.join("fixture.json")).unwrap()).unwrap();
    let source = Source::open(&folder, None, None).unwrap();
    assert_eq!(source.kind, Kind::Glow);
    let published = Published::open(&source).unwrap();
    let mut seen = 0;
    for kind in [DType::F64, DType::F32] {
        for checked in import::check(published.reference(), &folder, kind).unwrap() {
            // `main: x` and `grad.KEY` are `x` and `grad.KEY` there, `sample: x` is `sample.x`.
            let (case, name) = checked.name.split_once(": ").unwrap_or(("main", &checked.name));
            let key = if case == "main" { name.to_owned() } else { format!("{case}.{name}") };
            let said = &fixture["cases"][case]["outputs"][&key];
            let bound = match kind {
                DType::F64 => EXACT * checked.largest,
                _ => said["suggested_tolerance"]
                    .as_f64()
                    .unwrap_or_else(|| checked.largest * said["relative_tolerance"].as_f64().unwrap()),
            };
            let found = format!("{kind:?} {} is off by {:e}, bound {bound:e}", checked.name, checked.absolute);
            assert!(checked.double && checked.absolute <= bound, "{found}");
            seen += 1;
        }
    }
    // Eight outputs, four gradients and a sample in each.
    assert_eq!(seen, 26);
    let exported = published.reference().exported();
    let buffers = [".l_mask", ".u_mask", ".l_eye", ".initialized"];
    let kept = source.weights.iter().filter(|(name, _)| !buffers.iter().any(|buffer| name.ends_with(buffer)));
    assert!(kept.eq(exported.iter()), "what is exported are the tensors that were imported");
}
