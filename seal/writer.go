package seal

type writer struct{}
