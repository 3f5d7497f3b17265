#include "core/kernels/functions.h"
#include "core/kernels/vector.h"

namespace neox::kernels::NEOX_KERNEL_NAMESPACE {

#define NEOX_TEXT_OF(x) #x
#define NEOX_NAME_OF(x) NEOX_TEXT_OF(x)

extern const KernelTable table;
const KernelTable table = {
    NEOX_NAME_OF(NEOX_KERNEL_NAMESPACE),
    kLinearPanel,
    kWideRows,
    attention_forward_scratch,
    attention_backward_scratch,
    attention_forward,
    attention_backward,
    linear,
    pack_linear,
    transpose_panels,
    quantize,
    quantize_rows,
    activation,
    rotary,
    cross_entropy,
    row_range,
    exp_sum,
    at_least,
    matmul,
};

}  // namespace neox::kernels::NEOX_KERNEL_NAMESPACE
