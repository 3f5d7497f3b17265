// Beam searches of many rows together.
#pragma once

#include <vector>

#include "core/base/cancel.h"
#include "core/generation/beams.h"
#include "core/model/model.h"

namespace neox {

struct BeamRequest {
  GenerationRequest row;
  BeamSettings beams;
};

// For each request its best sequences, best first. The requests go through the model together and do not see each
// other.
std::vector<std::vector<BeamResult>> beam_search(const Model& model, const std::vector<BeamRequest>& requests,
                                                 const CancelFlag& cancel);

}  // namespace neox
