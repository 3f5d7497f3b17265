// What the *.kernel.cc files of one instruction set know of each other.
#pragma once

#include "core/kernels/kernels.h"

namespace neox::kernels::NEOX_KERNEL_NAMESPACE {

void matmul(const MatmulTask& task);
int64_t attention_forward_scratch(const AttentionTask& task);
int64_t attention_backward_scratch(const AttentionTask& task);
void attention_forward(const AttentionTask& task, float* scratch);
void attention_backward(const AttentionTask& task, float* scratch);
void linear(const LinearTask& task, int64_t first_panel, int64_t last_panel);
void pack_linear(const LinearPackTask& task, int64_t first_panel, int64_t last_panel);
void transpose_panels(const TransposeTask& task, int64_t first_panel, int64_t last_panel);
float quantize(const float* weights, int64_t count, int8_t* out);
void quantize_rows(const QuantizeTask& task, int64_t first_row, int64_t last_row);
void activation(const ActivationTask& task);
void rotary(const RotaryTask& task);
RowRange row_range(const float* x, int64_t count);
double exp_sum(const float* x, int64_t count, float largest, float scale, float* out);
int64_t at_least(const float* x, int64_t count, float least, int32_t* out);
LossResult cross_entropy(Element element, void* logits, int64_t vocab, int64_t target, float scale);

}  // namespace neox::kernels::NEOX_KERNEL_NAMESPACE
