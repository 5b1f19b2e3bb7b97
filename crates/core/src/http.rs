//! Request routing: the model that RouteConfiguration is converted into, and the choice made for one request.
