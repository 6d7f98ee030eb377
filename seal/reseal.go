package seal

import "context"

// resealing is a Reseal under way.
type resealing struct{ cancel context.CancelFunc }

func (r *resealing) abandon() { r.cancel() }
