// Nothing of it is named.
#pragma once
