// The frame of the C ABI's functions: what every operator checks, in which order, before anything is written.
//
// An operator has a struct for each kind of call on a machine. It begins with the arguments below, and has
//
//   problem                          knows Y's extents, of_output(), once it is resolved
//   dyndeploy_status resolve()       checks resources, attributes and inputs
//   dyndeploy_status prepare()       refuses what these kernels cannot do
//   uint64_t workspace() const       bytes, of a call that is prepared
//   dyndeploy_status run() const     once all is checked
#pragma once

#include "common/problem.h"

namespace dyndeploy {

template <class Attributes, class Resources>
struct ForwardArguments {
  const Attributes* attributes;
  const dyndeploy_tensor* inputs;
  const dyndeploy_tensor* output;
  const Resources* resources;

  // Hidden by those of operators that have more to say.
  dyndeploy_status prepare() const { return DYNDEPLOY_OK; }
  // Whether an input's data has to be there: not where its packed form is.
  bool reads(int /*input*/) const { return true; }
  dyndeploy_status check_packed() const { return DYNDEPLOY_OK; }
};

template <class Attributes, class Resources>
struct BackwardArguments {
  const Attributes* attributes;
  const dyndeploy_tensor* gradient;  // of Y
  const dyndeploy_tensor* inputs;
  const dyndeploy_tensor* gradients;
  const Resources* resources;

  // Hidden by those of operators that have more to say.
  dyndeploy_status prepare() const { return DYNDEPLOY_OK; }
};

namespace detail {

template <class Call>
dyndeploy_status prepare_forward(const char* op, Call& call) {
  DYNDEPLOY_TRY(call.resolve());
  DYNDEPLOY_TRY(check_output(op, "Y", call.output, call.inputs[0].dtype, call.problem.of_output()));
  return call.prepare();
}

template <class Call>
dyndeploy_status prepare_backward(const char* op, const char* const (&gradients)[4], Call& call) {
  DYNDEPLOY_TRY(call.resolve());
  DYNDEPLOY_TRY(check_output(op, kGradientOfY, call.gradient, call.inputs[0].dtype, call.problem.of_output()));
  DYNDEPLOY_TRY(check_gradients(op, gradients, call.inputs, call.gradients));
  return call.prepare();
}

template <class Call>
dyndeploy_status run(const char* op, const Call& call) {
  DYNDEPLOY_TRY(check_workspace(op, *call.resources, call.workspace()));
  return call.run();
}

}  // namespace detail

// dyndeploy_<op>_…_forward_workspace
template <class Call>
dyndeploy_status query_forward(const char* op, Call call, uint64_t* bytes) {
  DYNDEPLOY_TRY(detail::prepare_forward(op, call));
  return answer(op, call.workspace(), bytes);
}

// dyndeploy_<op>_…_forward. `inputs`: their names.
template <class Call, int kCount>
dyndeploy_status run_forward(const char* op, const char* const (&inputs)[kCount], Call call) {
  DYNDEPLOY_TRY(detail::prepare_forward(op, call));
  for (int i = 0; i < kCount; ++i)
    if (call.reads(i)) DYNDEPLOY_TRY(check_data(op, inputs[i], call.inputs[i]));
  DYNDEPLOY_TRY(check_data(op, "Y", *call.output));
  DYNDEPLOY_TRY(call.check_packed());
  return detail::run(op, call);
}

// dyndeploy_<op>_…_backward_workspace. `gradients`: their names.
template <class Call>
dyndeploy_status query_backward(const char* op, const char* const (&gradients)[4], Call call, uint64_t* bytes) {
  DYNDEPLOY_TRY(detail::prepare_backward(op, gradients, call));
  return answer(op, call.workspace(), bytes);
}

// dyndeploy_<op>_…_backward
template <class Call>
dyndeploy_status run_backward(const char* op, const char* const (&inputs)[4], const char* const (&gradients)[4],
                              Call call) {
  DYNDEPLOY_TRY(detail::prepare_backward(op, gradients, call));
  for (int i = 0; i < 4; ++i) DYNDEPLOY_TRY(check_data(op, inputs[i], call.inputs[i]));
  DYNDEPLOY_TRY(check_data(op, kGradientOfY, *call.gradient));
  DYNDEPLOY_TRY(check_gradients_data(op, gradients, call.gradients));
  return detail::run(op, call);
}

}  // namespace dyndeploy
