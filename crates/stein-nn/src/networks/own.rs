//! A network of one's own as a value of one type, whatever its type.
//!
//! burn's visitors and mappers are generic over the rank of a parameter, which a trait object cannot be; on the way through one a
//! parameter is handed over as [`Any`] and taken up again by the rank it has.

use std::{any::Any, fmt};

use burn::{
    module::{Content, Devices, Flag, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param},
    tensor::{Bool, Device, Int, Tensor},
};
use stein::{Context, Network, Result};

use crate::ops::Dual;

/// A module that is a [`Network`], of any type; the highest rank of its parameters is 8.
pub struct Boxed(Box<dyn Erased>);

impl Boxed {
    /// This network.
    pub fn new(network: impl Module + Network + 'static) -> Self {
        Self(Box::new(network))
    }

    /// The network, if it is of this type.
    pub fn get<N: 'static>(&self) -> Option<&N> {
        self.0.any().downcast_ref()
    }
}

impl Network for Boxed {
    fn forward(&self, x: Dual<2>, context: &Context) -> Result<Dual<2>> {
        self.0.forward(x, context)
    }
}

impl Clone for Boxed {
    fn clone(&self) -> Self {
        Self(self.0.duplicate())
    }
}

impl fmt::Debug for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ModuleDisplayDefault for Boxed {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_formatted(&format!("{:?}", self.0)).optional()
    }

    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl ModuleDisplay for Boxed {}

impl Module for Boxed {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.0.devices_too(devices)
    }

    fn fork(self, device: &Device) -> Self {
        Self(self.0.forked(device))
    }

    fn to_device(self, device: &Device) -> Self {
        Self(self.0.moved(device))
    }

    fn train(self) -> Self {
        Self(self.0.trained())
    }

    fn valid(&self) -> Self {
        Self(self.0.validated())
    }

    fn materialize(self) -> Self {
        Self(self.0.materialized())
    }

    fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
        self.0.show(&mut Taken(visitor));
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        Self(self.0.mapped(&mut Taken(mapper)))
    }
}

/// What a [`Module`] does, without types of its own or of visitors.
trait Erased: Network + fmt::Debug {
    fn any(&self) -> &dyn Any;
    fn duplicate(&self) -> Box<dyn Erased>;
    fn devices_too(&self, devices: Devices) -> Devices;
    fn forked(self: Box<Self>, device: &Device) -> Box<dyn Erased>;
    fn moved(self: Box<Self>, device: &Device) -> Box<dyn Erased>;
    fn trained(self: Box<Self>) -> Box<dyn Erased>;
    fn validated(&self) -> Box<dyn Erased>;
    fn materialized(self: Box<Self>) -> Box<dyn Erased>;
    fn show(&self, visitor: &mut dyn AnyVisitor);
    fn mapped(self: Box<Self>, mapper: &mut dyn AnyMapper) -> Box<dyn Erased>;
}

impl<M: Module + Network + 'static> Erased for M {
    fn any(&self) -> &dyn Any {
        self
    }

    fn duplicate(&self) -> Box<dyn Erased> {
        Box::new(self.clone())
    }

    fn devices_too(&self, devices: Devices) -> Devices {
        self.collect_devices(devices)
    }

    fn forked(self: Box<Self>, device: &Device) -> Box<dyn Erased> {
        Box::new(self.fork(device))
    }

    fn moved(self: Box<Self>, device: &Device) -> Box<dyn Erased> {
        Box::new(self.to_device(device))
    }

    fn trained(self: Box<Self>) -> Box<dyn Erased> {
        Box::new(self.train())
    }

    fn validated(&self) -> Box<dyn Erased> {
        Box::new(self.valid())
    }

    fn materialized(self: Box<Self>) -> Box<dyn Erased> {
        Box::new(self.materialize())
    }

    fn show(&self, visitor: &mut dyn AnyVisitor) {
        self.visit(&mut Handed(visitor));
    }

    fn mapped(self: Box<Self>, mapper: &mut dyn AnyMapper) -> Box<dyn Erased> {
        Box::new((*self).map(&mut Handed(mapper)))
    }
}

/// A visitor of parameters of any rank.
trait AnyVisitor {
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
    fn float(&mut self, param: &dyn Any);
    fn int(&mut self, param: &dyn Any);
    fn bool(&mut self, param: &dyn Any);
    fn flag(&mut self, flag: &Param<Flag>);
}

/// A mapper of parameters of any rank.
trait AnyMapper {
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
    fn float(&mut self, param: Box<dyn Any>) -> Box<dyn Any>;
    fn int(&mut self, param: Box<dyn Any>) -> Box<dyn Any>;
    fn bool(&mut self, param: Box<dyn Any>) -> Box<dyn Any>;
    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag>;
}

/// On the module's side: what it shows is handed over as any parameter.
struct Handed<'a, V: ?Sized>(&'a mut V);

impl ModuleVisitor for Handed<'_, dyn AnyVisitor + '_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.float(param);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0.int(param);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.0.bool(param);
    }

    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.0.flag(flag);
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

const SAME: &str = "a parameter comes back as the type it was handed over as";

impl ModuleMapper for Handed<'_, dyn AnyMapper + '_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        *self.0.float(Box::new(param)).downcast().expect(SAME)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        *self.0.int(Box::new(param)).downcast().expect(SAME)
    }

    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        *self.0.bool(Box::new(param)).downcast().expect(SAME)
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.flag(flag)
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

/// On the visitor's side: what was handed over is taken up by the rank it has.
struct Taken<'a, V>(&'a mut V);

/// Calls a method with a parameter of the rank it has.
macro_rules! by_rank {
    (show $visitor:expr, $method:ident, $param:ident, $kind:ty: $($rank:literal)+) => {{
        $(if let Some(param) = $param.downcast_ref::<Param<Tensor<$rank, $kind>>>() {
            return $visitor.$method(param);
        })+
        unreachable!("burn has no tensors of more than eight axes")
    }};
    (map $mapper:expr, $method:ident, $param:ident, $kind:ty: $($rank:literal)+) => {{
        $(let $param = match $param.downcast::<Param<Tensor<$rank, $kind>>>() {
            Ok(param) => return Box::new($mapper.$method(*param)),
            Err(other) => other,
        };)+
        unreachable!("{:?}: burn has no tensors of more than eight axes", $param.type_id())
    }};
}

impl<V: ModuleVisitor> AnyVisitor for Taken<'_, V> {
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }

    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }

    fn float(&mut self, param: &dyn Any) {
        by_rank!(show self.0, visit_float, param, burn::tensor::Float: 1 2 3 4 5 6 7 8);
    }

    fn int(&mut self, param: &dyn Any) {
        by_rank!(show self.0, visit_int, param, Int: 1 2 3 4 5 6 7 8);
    }

    fn bool(&mut self, param: &dyn Any) {
        by_rank!(show self.0, visit_bool, param, Bool: 1 2 3 4 5 6 7 8);
    }

    fn flag(&mut self, flag: &Param<Flag>) {
        self.0.visit_flag(flag);
    }
}

impl<V: ModuleMapper> AnyMapper for Taken<'_, V> {
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }

    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }

    fn float(&mut self, param: Box<dyn Any>) -> Box<dyn Any> {
        by_rank!(map self.0, map_float, param, burn::tensor::Float: 1 2 3 4 5 6 7 8)
    }

    fn int(&mut self, param: Box<dyn Any>) -> Box<dyn Any> {
        by_rank!(map self.0, map_int, param, Int: 1 2 3 4 5 6 7 8)
    }

    fn bool(&mut self, param: Box<dyn Any>) -> Box<dyn Any> {
        by_rank!(map self.0, map_bool, param, Bool: 1 2 3 4 5 6 7 8)
    }

    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.map_flag(flag)
    }
}
