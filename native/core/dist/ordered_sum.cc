#include "core/dist/ordered_sum.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <utility>

namespace neox {

std::vector<int64_t> equal_parts(int64_t elements, int size) {
  std::vector<int64_t> bounds;
  for (int r = 0; r <= size; ++r) bounds.push_back(elements * r / size);
  return bounds;
}

at::Tensor ordered_sum(ProcessGroup& group, const std::vector<at::Tensor>& mine, int64_t lanes,
                       const std::vector<int64_t>& bounds, const CancelFlag& cancel) {
  const int size = group.size();
  const int rank = group.rank();
  const auto part_of = [&](int r) { return bounds.at(r + 1) - bounds.at(r); };
  const auto lanes_of = [&](int r) { return r < lanes ? (lanes - r + size - 1) / size : int64_t{0}; };
  std::vector<int64_t> sent;      // to each rank: its part of all lanes here
  std::vector<int64_t> received;  // from each rank: the part of here of all its lanes
  for (int r = 0; r < size; ++r) {
    sent.push_back(lanes_of(rank) * part_of(r));
    received.push_back(lanes_of(r) * part_of(rank));
  }
  at::Tensor input = at::empty({lanes_of(rank) * bounds.back()}, at::kFloat);
  int64_t at = 0;
  for (int r = 0; r < size; ++r) {
    for (const at::Tensor& lane : mine) {
      input.narrow(0, at, part_of(r)).copy_(lane.narrow(0, bounds.at(r), part_of(r)));
      at += part_of(r);
    }
  }
  const at::Tensor output = at::empty({lanes * part_of(rank)}, at::kFloat);
  group.all_to_all(output, input, received, sent, cancel);
  std::vector<int64_t> first = {0};  // of each rank in `output`
  for (int r = 0; r < size; ++r) first.push_back(first.back() + received.at(r));
  at::Tensor sum;
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const at::Tensor part = output.narrow(0, first.at(lane % size) + lane / size * part_of(rank), part_of(rank));
    sum = sum.defined() ? sum.add_(part) : part.clone();
  }
  return sum;
}

at::Tensor gather_parts(ProcessGroup& group, const at::Tensor& part, const std::vector<int64_t>& bounds,
                        const CancelFlag& cancel) {
  const int size = group.size();
  const int rank = group.rank();
  std::vector<int64_t> sent(size, 0);
  std::vector<int64_t> received(size, 0);
  sent[0] = part.numel();
  if (rank == 0) {
    for (int r = 0; r < size; ++r) received[r] = bounds.at(r + 1) - bounds.at(r);
  }
  const at::Tensor all = at::empty({rank == 0 ? bounds.back() : 0}, at::kFloat);
  group.all_to_all(all, part, received, sent, cancel);
  return rank == 0 ? all : at::Tensor();
}

}  // namespace neox
